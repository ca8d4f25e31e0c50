-- listens (session, place, track, played_ratio) → pairs: the first track of a session with every later track.
SELECT session, place, 1 AS previous_place, previous, following, played_ratio
FROM (
    SELECT
        session,
        place,
        FIRST_VALUE(track) OVER (PARTITION BY session ORDER BY place) AS previous,
        track AS following,
        played_ratio
    FROM listens
) AS openings
WHERE place > 1
