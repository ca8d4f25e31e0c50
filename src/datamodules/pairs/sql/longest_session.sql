-- listens and settings (longest_session) → listens without those of sessions with more tracks.
SELECT user_id, session_of_user, session, started, place, timestamp, track, played_ratio
FROM (
    SELECT listens.*, COUNT(*) OVER (PARTITION BY session) AS length FROM listens
) AS counted
CROSS JOIN settings
WHERE length <= longest_session
