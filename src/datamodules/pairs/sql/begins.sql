-- ordered (user_id, nth, timestamp, position, track, played_ratio, source_session, is_last, recommendation) and
-- settings (session_gap_ms) → marked: each event, and whether it begins a session (begins: 1 or 0).
-- A session ends after an event marked as last, before a gap longer than session_gap_ms, or where the source's own
-- session changes. ANSI SQL: DuckDB and Spark SQL run it unchanged.
SELECT
    user_id, nth, timestamp, position, track, played_ratio, is_last, recommendation,
    CASE
        WHEN timestamp_before IS NULL OR is_last_before THEN 1
        WHEN timestamp - timestamp_before > session_gap_ms THEN 1
        WHEN source_session <> source_session_before THEN 1
        ELSE 0
    END AS begins
FROM (
    SELECT
        ordered.*,
        LAG(timestamp) OVER (PARTITION BY user_id ORDER BY nth) AS timestamp_before,
        LAG(is_last) OVER (PARTITION BY user_id ORDER BY nth) AS is_last_before,
        LAG(source_session) OVER (PARTITION BY user_id ORDER BY nth) AS source_session_before
    FROM ordered
) AS compared
CROSS JOIN settings
