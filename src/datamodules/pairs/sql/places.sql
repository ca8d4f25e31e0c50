-- listens, of which some were left out → listens with places 1, 2, … in their session.
SELECT
    user_id, session_of_user, session, started,
    ROW_NUMBER() OVER (PARTITION BY session ORDER BY place) AS place,
    timestamp, track, played_ratio
FROM listens
