-- events (user_id, timestamp, position, track, played_ratio, source_session, is_last) and settings (session_gap_ms)
--   → each event with its session (the position of the session's first event) and its place 1, 2, … in it.
-- Sessions of one user at the same time are not separated, as with interleaved=keep.
-- A session ends after an event marked as last, before a gap longer than session_gap_ms, or where the source's own
-- session changes. ANSI SQL: DuckDB and Spark SQL run it unchanged.
WITH ordered AS (
    SELECT
        events.*,
        ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY timestamp, position) AS place_of_user,
        LAG(timestamp) OVER (PARTITION BY user_id ORDER BY timestamp, position) AS timestamp_before,
        LAG(is_last) OVER (PARTITION BY user_id ORDER BY timestamp, position) AS is_last_before,
        LAG(source_session) OVER (PARTITION BY user_id ORDER BY timestamp, position) AS source_session_before
    FROM events
),
marked AS (
    SELECT
        ordered.*,
        CASE
            WHEN place_of_user = 1 OR is_last_before THEN 1
            WHEN timestamp - timestamp_before > session_gap_ms THEN 1
            WHEN source_session <> source_session_before THEN 1
            ELSE 0
        END AS begins
    FROM ordered CROSS JOIN settings
),
numbered AS (
    SELECT
        marked.*,
        SUM(begins) OVER (
            PARTITION BY user_id ORDER BY timestamp, position ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS session_of_user
    FROM marked
)
SELECT
    user_id,
    session_of_user,
    FIRST_VALUE(position) OVER (PARTITION BY user_id, session_of_user ORDER BY timestamp, position) AS session,
    FIRST_VALUE(timestamp) OVER (PARTITION BY user_id, session_of_user ORDER BY timestamp, position) AS started,
    ROW_NUMBER() OVER (PARTITION BY user_id, session_of_user ORDER BY timestamp, position) AS place,
    track,
    played_ratio
FROM numbered
