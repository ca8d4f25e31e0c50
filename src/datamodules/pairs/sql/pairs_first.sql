-- listens (session, place, timestamp, track, played_ratio)
--   → pairs: the first track of a session with every later track.
SELECT session, place, CAST(1 AS BIGINT) AS previous_place, timestamp, previous, following, played_ratio
FROM (
    SELECT
        session,
        place,
        timestamp,
        FIRST_VALUE(track) OVER (PARTITION BY session ORDER BY place) AS previous,
        track AS following,
        played_ratio
    FROM listens
) AS openings
WHERE place > 1
