-- listens (session, place, timestamp, track, played_ratio)
--   → pairs: each track with the track before it in the session.
SELECT session, place, place - 1 AS previous_place, timestamp, previous, following, played_ratio
FROM (
    SELECT
        session,
        place,
        timestamp,
        LAG(track) OVER (PARTITION BY session ORDER BY place) AS previous,
        track AS following,
        played_ratio
    FROM listens
) AS consecutive
WHERE previous IS NOT NULL
