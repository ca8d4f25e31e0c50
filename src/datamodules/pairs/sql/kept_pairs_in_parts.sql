-- pairs (with part_of_pair), left_out (track_left_out) and settings (keeps_self_pairs) → pairs with is_kept.
SELECT
    session, place, previous_place, timestamp, previous, following, played_ratio,
    (previous <> following OR keeps_self_pairs)
        AND previous_left_out.track_left_out IS NULL
        AND following_left_out.track_left_out IS NULL AS is_kept,
    part_of_pair
FROM pairs
CROSS JOIN settings
LEFT JOIN left_out AS previous_left_out ON previous = previous_left_out.track_left_out
LEFT JOIN left_out AS following_left_out ON following = following_left_out.track_left_out
