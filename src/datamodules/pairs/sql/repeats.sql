-- listens → listens without later plays of a track in its session (repeats=drop).
SELECT user_id, session_of_user, session, started, place, timestamp, track, played_ratio
FROM (
    SELECT listens.*, ROW_NUMBER() OVER (PARTITION BY session, track ORDER BY place) AS repetition FROM listens
) AS counted
WHERE repetition = 1
