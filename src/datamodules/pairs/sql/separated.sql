-- marked and separated (position_separated, nth_separated, begins_separated), which has every event of the users that
-- it has → marked, where these users' events have the order and the beginnings of separated, or are left out.
SELECT user_id, nth_separated AS nth, timestamp, position, track, played_ratio, begins_separated AS begins
FROM marked
INNER JOIN separated ON position = position_separated
UNION ALL
SELECT user_id, nth, timestamp, position, track, played_ratio, begins
FROM marked
WHERE user_id NOT IN (SELECT user_id FROM interleaving)
