-- ordered → ordered, where all events of a session of the source follow its first one, as in logs with a clock.
SELECT
    user_id, timestamp, position, track, played_ratio, source_session, is_last, recommendation,
    ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY first_of_session, nth) AS nth
FROM (
    SELECT ordered.*, MIN(nth) OVER (PARTITION BY user_id, source_session) AS first_of_session FROM ordered
) AS grouped
