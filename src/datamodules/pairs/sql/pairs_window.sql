-- listens (session, place, timestamp, track, played_ratio) and settings (pair_window)
--   → pairs: each track with every track at most pair_window places before it in the session.
SELECT
    second_listen.session,
    second_listen.place,
    first_listen.place AS previous_place,
    second_listen.timestamp,
    first_listen.track AS previous,
    second_listen.track AS following,
    second_listen.played_ratio
FROM listens AS second_listen
CROSS JOIN settings
INNER JOIN listens AS first_listen
    ON second_listen.session = first_listen.session
    AND first_listen.place < second_listen.place
    AND first_listen.place >= second_listen.place - settings.pair_window
