-- listens, whose played_ratio is the time played, and longest (track_of_longest, longest)
--   → listens with the share of the longest.
SELECT
    user_id, session_of_user, session, started, place, timestamp, track,
    CAST(CASE WHEN share > 1 THEN 1 ELSE share END AS FLOAT) AS played_ratio
FROM (
    SELECT listens.*, CAST(listens.played_ratio AS DOUBLE) / longest AS share
    FROM listens
    LEFT JOIN longest ON listens.track = longest.track_of_longest
) AS shared
