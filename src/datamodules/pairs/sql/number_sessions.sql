-- listens and settings (has_clock) → sessions: nth, the number 0, 1, … of each session in the order of starts, without
-- a window over all sessions: those of one day (of a million positions, without a clock) are numbered together.
WITH starts AS (
    SELECT
        session, user_id, session_of_user, started,
        CASE WHEN has_clock THEN FLOOR(started / 86400000) ELSE FLOOR(session / 1000000) END AS bucket
    FROM listens CROSS JOIN settings
    GROUP BY session, user_id, session_of_user, started, has_clock
),
sizes AS (
    SELECT bucket AS bucket_of_size, COUNT(*) AS num FROM starts GROUP BY bucket
),
before AS (
    SELECT bucket_of_size, SUM(num) OVER (ORDER BY bucket_of_size) - num AS num_before FROM sizes
)
SELECT
    session AS session_key,
    user_id AS user_of_session,
    session_of_user AS number_of_user,
    CAST(num_before + ROW_NUMBER() OVER (PARTITION BY bucket ORDER BY started, session) - 1 AS BIGINT) AS nth
FROM starts
INNER JOIN before ON bucket = bucket_of_size
