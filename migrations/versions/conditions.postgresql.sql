-- Functions for the triggers of a revision, on PostgreSQL. Statements end at a semicolon before a blank line. As in revision 0002,
-- every name and operator says its schema.
--
-- operator_core.actions.rules evaluates the same in Python, and the file beside this one on SQLite. All three agree.

-- Whether a rule for an identity applies to a row with this identity. The keys are the normalised identities, which Python
-- computes; SQL can't. NULL and empty text match, on both sides. A row without a key was written by raw SQL. Its identity is
-- compared in lower case if it is printable ASCII without spaces, because that is its key. Any other identity matches, because its key is
-- unknown. The comparison in lower case is made beside a key too: a wrong key can add a match, but not prevent this one.
CREATE FUNCTION action_ledger_identity_matches(rule_key text, identity text, identity_key text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE
        WHEN coalesce(rule_key, '') OPERATOR(pg_catalog.=) '' OR coalesce(identity, '') OPERATOR(pg_catalog.=) ''
            OR rule_key OPERATOR(pg_catalog.=) pg_catalog.lower(identity COLLATE pg_catalog."C")
            OR rule_key OPERATOR(pg_catalog.=) (identity_key COLLATE pg_catalog."C") THEN true
        ELSE coalesce(identity_key, '') OPERATOR(pg_catalog.=) '' AND identity OPERATOR(pg_catalog.~) ('[^!-~]' COLLATE pg_catalog."C")
    END;
END $$;

-- Whether all conditions of a rule match the parameters of a proposal. A condition that can't be evaluated matches.
--
-- A query costs more than everything else in this function. So an object is searched by a query only if its text does not
-- prove that it has the key at most once. The block with the exception handler begins a subtransaction: one for all
-- conditions, and another one after each exception. A parallel query can't begin one, so the function is not PARALLEL SAFE.
CREATE FUNCTION action_ledger_condition_matches(parameters json, conditions json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    document pg_catalog.text := parameters;
    escapes pg_catalog.bool := pg_catalog.strpos(document, '\') OPERATOR(pg_catalog.>) 0;
    place pg_catalog.int4 := 0;
    total pg_catalog.int4;
    condition pg_catalog.json;
    op pg_catalog.text;
    signs pg_catalog.text;
    path pg_catalog.json;
    step pg_catalog.json;
    sought pg_catalog.text;
    quoted pg_catalog.text;
    times pg_catalog.int8;
    found pg_catalog.json;
    kind pg_catalog.text;
    value pg_catalog.text;
    number pg_catalog."numeric";
    approximate pg_catalog.float8;
    whole pg_catalog.bool;
    operands pg_catalog.json;
    operand pg_catalog.json;
    other pg_catalog.text;
    other_approximate pg_catalog.float8;
    sign pg_catalog.text;
    half CONSTANT pg_catalog.float8 := 0.5;
    near CONSTANT pg_catalog.float8 := 5e-14;
    verdict pg_catalog.bool;
    differs pg_catalog.bool;
BEGIN
    IF parameters IS NULL OR conditions IS NULL
        OR pg_catalog.json_typeof(conditions) OPERATOR(pg_catalog.<>) 'array'
        OR pg_catalog.json_typeof(parameters) OPERATOR(pg_catalog.<>) 'object'
        OR escapes AND document OPERATOR(pg_catalog.~) '\\u(0000|[dD][89a-fA-F])'
        OR pg_catalog.length(document) OPERATOR(pg_catalog.>=) 5000 AND document OPERATOR(pg_catalog.~) '[0-9]{50}'
    THEN
        RETURN true;
    END IF;
    total := pg_catalog.json_array_length(conditions);
    WHILE place OPERATOR(pg_catalog.<) total LOOP
        BEGIN
            <<each>>
            WHILE place OPERATOR(pg_catalog.<) total LOOP
                condition := conditions OPERATOR(pg_catalog.->) place;
                place := place OPERATOR(pg_catalog.+) 1;
                op := condition OPERATOR(pg_catalog.->>) 'op';
                path := condition OPERATOR(pg_catalog.->) 'path';
                found := parameters;
                FOR depth IN 0 .. pg_catalog.json_array_length(path) OPERATOR(pg_catalog.-) 1 LOOP
                    step := path OPERATOR(pg_catalog.->) depth;
                    kind := pg_catalog.json_typeof(found);
                    IF kind OPERATOR(pg_catalog.=) 'object' AND pg_catalog.json_typeof(step) OPERATOR(pg_catalog.=) 'string' THEN
                        sought := step OPERATOR(pg_catalog.#>>) '{}';
                        quoted := '"' OPERATOR(pg_catalog.||) sought OPERATOR(pg_catalog.||) '"';
                        value := found;
                        IF NOT escapes AND (pg_catalog.length(value) OPERATOR(pg_catalog.-) pg_catalog.length(pg_catalog.replace(value, quoted, '')))
                            OPERATOR(pg_catalog.<=) pg_catalog.length(quoted)
                        THEN
                            found := found OPERATOR(pg_catalog.->) sought;
                        ELSE
                            SELECT pg_catalog.count(*), (pg_catalog.array_agg(member.value))[1] INTO times, found
                            FROM pg_catalog.json_each(found) AS member
                            WHERE member.key OPERATOR(pg_catalog.=) (sought COLLATE pg_catalog."C");
                            CONTINUE each WHEN times OPERATOR(pg_catalog.>) 1;
                        END IF;
                    ELSIF kind OPERATOR(pg_catalog.=) 'array' AND pg_catalog.json_typeof(step) OPERATOR(pg_catalog.=) 'number' THEN
                        found := found OPERATOR(pg_catalog.->) (step OPERATOR(pg_catalog.#>>) '{}')::pg_catalog.int4;
                    ELSE
                        found := NULL;
                    END IF;
                    EXIT WHEN found IS NULL;
                END LOOP;
                IF found IS NULL AND op OPERATOR(pg_catalog.=) 'exists' THEN
                    RETURN false;
                END IF;
                CONTINUE each WHEN found IS NULL OR op OPERATOR(pg_catalog.=) 'exists';
                kind := pg_catalog.json_typeof(found);
                CONTINUE each WHEN kind OPERATOR(pg_catalog.=) 'object' OR kind OPERATOR(pg_catalog.=) 'array';
                value := found OPERATOR(pg_catalog.#>>) '{}';
                IF kind OPERATOR(pg_catalog.=) 'number' THEN
                    whole := value OPERATOR(pg_catalog.!~) '[.eE]';
                    IF whole THEN
                        number := value;
                        CONTINUE each WHEN number OPERATOR(pg_catalog.<) -9223372036854775808 OR number OPERATOR(pg_catalog.>) 9223372036854775807;
                        approximate := number;
                    ELSIF value OPERATOR(pg_catalog.~) '^-?[0.]+([eE]|$)' OR value OPERATOR(pg_catalog.~) '[eE]-0*[1-9][0-9]{4}' THEN
                        approximate := 0;
                    ELSE
                        -- PostgreSQL has no float for 1e-400, and other databases have zero.
                        number := value;
                        approximate := CASE WHEN pg_catalog.abs(number) OPERATOR(pg_catalog.>=) 1e-305 THEN number ELSE 0 END;
                        CONTINUE each WHEN pg_catalog.abs(approximate) OPERATOR(pg_catalog.>=) 1e308;
                    END IF;
                    IF pg_catalog.abs(approximate) OPERATOR(pg_catalog.<) 1e-300 THEN
                        approximate := 0;
                    END IF;
                END IF;
                signs := CASE WHEN op OPERATOR(pg_catalog.=) 'eq' THEN '=' WHEN op OPERATOR(pg_catalog.=) 'in' THEN '='
                    WHEN op OPERATOR(pg_catalog.=) 'ne' THEN '<>' WHEN op OPERATOR(pg_catalog.=) 'lt' THEN '<'
                    WHEN op OPERATOR(pg_catalog.=) 'le' THEN '<=' WHEN op OPERATOR(pg_catalog.=) 'gt' THEN '>'
                    WHEN op OPERATOR(pg_catalog.=) 'ge' THEN '>=' END;
                operands := condition OPERATOR(pg_catalog.->) 'value';
                differs := false;
                FOR item IN 0 .. CASE WHEN op OPERATOR(pg_catalog.=) 'in' THEN pg_catalog.json_array_length(operands) OPERATOR(pg_catalog.-) 1 ELSE 0 END LOOP
                    operand := CASE WHEN op OPERATOR(pg_catalog.=) 'in' THEN operands OPERATOR(pg_catalog.->) item ELSE operands END;
                    CONTINUE WHEN operand IS NULL OR pg_catalog.json_typeof(operand) OPERATOR(pg_catalog.<>) kind;
                    other := operand OPERATOR(pg_catalog.#>>) '{}';
                    IF op OPERATOR(pg_catalog.=) 'prefix' THEN
                        verdict := kind OPERATOR(pg_catalog.<>) 'string' OR pg_catalog.starts_with(value, other);
                    ELSE
                        IF kind OPERATOR(pg_catalog.<>) 'number' THEN
                            sign := CASE WHEN coalesce(value OPERATOR(pg_catalog.=) (other COLLATE pg_catalog."C"), true) THEN '='
                                WHEN value OPERATOR(pg_catalog.<) (other COLLATE pg_catalog."C") THEN '<' ELSE '>' END;
                            -- Truth values and null have no order.
                            CONTINUE WHEN kind OPERATOR(pg_catalog.<>) 'string' AND signs OPERATOR(pg_catalog.<>) '=' AND signs OPERATOR(pg_catalog.<>) '<>';
                        ELSIF whole AND other OPERATOR(pg_catalog.!~) '[.eE]' THEN
                            sign := CASE WHEN number OPERATOR(pg_catalog.=) other::pg_catalog."numeric" THEN '='
                                WHEN number OPERATOR(pg_catalog.<) other::pg_catalog."numeric" THEN '<' ELSE '>' END;
                        ELSE
                            other_approximate := other;
                            -- The empty sign is among any.
                            sign := CASE WHEN pg_catalog.abs(other_approximate) OPERATOR(pg_catalog.>=) 1e308 THEN ''
                                WHEN approximate OPERATOR(pg_catalog.=) other_approximate THEN '='
                                WHEN pg_catalog.abs((approximate OPERATOR(pg_catalog.*) half) OPERATOR(pg_catalog.-) (other_approximate OPERATOR(pg_catalog.*) half))
                                    OPERATOR(pg_catalog.<=) (near OPERATOR(pg_catalog.*) greatest(pg_catalog.abs(approximate), pg_catalog.abs(other_approximate))) THEN ''
                                WHEN approximate OPERATOR(pg_catalog.<) other_approximate THEN '<'
                                ELSE '>' END;
                        END IF;
                        verdict := pg_catalog.strpos(signs, sign) OPERATOR(pg_catalog.>) 0;
                    END IF;
                    CONTINUE each WHEN verdict IS NOT FALSE;
                    differs := true;
                END LOOP;
                IF differs THEN
                    RETURN false;
                END IF;
            END LOOP;
        EXCEPTION WHEN others THEN
            -- The condition before this place can't be evaluated.
        END;
    END LOOP;
    RETURN true;
END $$;
