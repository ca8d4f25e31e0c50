-- pairs (with pair and part_of_pair), whose played_ratio is the time played, and longest (track_of_longest, longest)
--   → pairs with the share of the longest.
SELECT
    session, place, previous_place, timestamp, previous, following,
    CAST(CASE WHEN share > 1 THEN 1 ELSE share END AS FLOAT) AS played_ratio,
    pair, part_of_pair
FROM (
    SELECT pairs.*, CAST(pairs.played_ratio AS DOUBLE) / longest AS share
    FROM pairs
    LEFT JOIN longest ON pairs.following = longest.track_of_longest
) AS shared
