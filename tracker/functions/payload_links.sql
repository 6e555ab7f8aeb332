-- Return the candidates at these positions (from 0) of a batch's payload.
CREATE FUNCTION tracker.payload_links(p_payload text, p_positions int[])
RETURNS TABLE (
    pack bigint, pack_row int, attempt smallint, language text, url text, text text, extra text, place int
)
LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT split_part(line, E'\t', 1)::bigint, split_part(line, E'\t', 2)::int, split_part(line, E'\t', 3)::smallint,
           nullif(split_part(line, E'\t', 4), ''), split_part(line, E'\t', 5), split_part(line, E'\t', 6),
           split_part(line, E'\t', 7), wanted.position
    FROM string_to_table(p_payload, E'\n') WITH ORDINALITY AS stored (line, place)
    JOIN unnest(p_positions) AS wanted (position) ON wanted.position = place - 1
$$;
