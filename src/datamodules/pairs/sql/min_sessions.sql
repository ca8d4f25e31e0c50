-- listens and settings (min_sessions) → listens without those of users with fewer sessions.
SELECT listens.*
FROM listens
WHERE user_id IN (
    SELECT user_id
    FROM listens CROSS JOIN settings
    GROUP BY user_id, min_sessions
    HAVING COUNT(DISTINCT session) >= min_sessions
)
