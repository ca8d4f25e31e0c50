-- pairs (with their number, pair) and parts (pair_in_part, part_of_pair) → pairs with the split of each (split=pair).
SELECT pairs.*, part_of_pair
FROM pairs
INNER JOIN parts ON pair = pair_in_part
