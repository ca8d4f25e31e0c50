-- listens (session, place, track, played_ratio) and settings (pair_window)
--   → pairs: each track with every one at most pair_window places before it in the session.
SELECT
    later.session,
    later.place,
    earlier.place AS earlier,
    earlier.track AS previous,
    later.track AS following,
    later.played_ratio
FROM listens AS later
CROSS JOIN settings
INNER JOIN listens AS earlier
    ON later.session = earlier.session
    AND earlier.place < later.place
    AND earlier.place >= later.place - settings.pair_window
