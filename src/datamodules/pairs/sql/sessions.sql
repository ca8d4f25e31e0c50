-- marked (user_id, nth, timestamp, position, track, played_ratio, begins) → listens: each event with its session (the
-- position of the session's first event), when the session started, and its place 1, 2, … in it.
SELECT
    user_id,
    CAST(session_of_user AS BIGINT) AS session_of_user,
    FIRST_VALUE(position) OVER (PARTITION BY user_id, session_of_user ORDER BY nth) AS session,
    FIRST_VALUE(timestamp) OVER (PARTITION BY user_id, session_of_user ORDER BY nth) AS started,
    ROW_NUMBER() OVER (PARTITION BY user_id, session_of_user ORDER BY nth) AS place,
    timestamp,
    track,
    played_ratio
FROM (
    SELECT
        marked.*,
        SUM(begins) OVER (PARTITION BY user_id ORDER BY nth ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
            AS session_of_user
    FROM marked
) AS numbered
