-- listens, sessions (session_key, part) and left_out (track_left_out, only_in_training)
--   → listens without those of these tracks.
SELECT user_id, session_of_user, session, started, place, timestamp, track, played_ratio
FROM listens
INNER JOIN sessions ON session = session_key
LEFT JOIN left_out ON track = track_left_out
WHERE track_left_out IS NULL OR (only_in_training AND part > 0)
