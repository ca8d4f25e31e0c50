-- pairs and sessions (session_key, nth) → pairs with pair, their number 0, 1, … in the order of sessions and places.
SELECT
    pairs.*,
    num_before + ROW_NUMBER() OVER (PARTITION BY session ORDER BY place, previous_place) - 1 AS pair
FROM pairs
INNER JOIN (
    SELECT session_of_num, CAST(SUM(num) OVER (ORDER BY nth) - num AS BIGINT) AS num_before
    FROM (SELECT session AS session_of_num, COUNT(*) AS num FROM pairs GROUP BY session) AS sizes
    INNER JOIN sessions ON session_of_num = session_key
) AS earlier ON session = session_of_num
