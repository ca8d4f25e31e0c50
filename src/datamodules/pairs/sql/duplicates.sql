-- events → events without those that repeat user, timestamp, track and share of an earlier one (duplicates=drop).
SELECT user_id, timestamp, position, track, played_ratio, source_session, is_last, recommendation
FROM (
    SELECT
        events.*,
        ROW_NUMBER() OVER (
            PARTITION BY user_id, timestamp, track, COALESCE(played_ratio, -1) ORDER BY position
        ) AS repetition
    FROM events
) AS counted
WHERE repetition = 1
