-- events (user_id, timestamp, position, …) → ordered: each event with nth, its place 1, 2, … among those of its user.
SELECT events.*, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY timestamp, position) AS nth
FROM events
