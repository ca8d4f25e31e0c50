-- listens, whose played_ratio is the duration in ms → listens with the share that fits before the next one starts.
SELECT
    user_id, session_of_user, session, started, place, timestamp, track,
    CAST(CASE WHEN share > 1 THEN 1 ELSE share END AS FLOAT) AS played_ratio
FROM (
    SELECT
        listens.*,
        CAST(LEAD(timestamp) OVER (PARTITION BY session ORDER BY place) - timestamp AS DOUBLE)
            / NULLIF(CAST(played_ratio AS DOUBLE), 0) AS share
    FROM listens
) AS shared
