-- pairs and settings (keeps_self_pairs) → pairs with is_kept. Each pair is in the split of its session.
SELECT
    session, place, previous_place, timestamp, previous, following, played_ratio,
    previous <> following OR keeps_self_pairs AS is_kept,
    CAST(NULL AS TINYINT) AS part_of_pair
FROM pairs
CROSS JOIN settings
