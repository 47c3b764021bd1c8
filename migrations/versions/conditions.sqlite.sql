-- Expressions for the triggers of a revision, on SQLite, which has no functions in SQL. Each ends at a semicolon before a blank
-- line. A revision leaves out the comments and replaces the parameters by columns. Each column needs NEW or the alias of a
-- table before its name, because json_each has columns of the same names. Each result is 1 or 0.
--
-- operator_core.actions.rules evaluates the same in Python, and the file beside this one on PostgreSQL. All three agree.

-- 1. Whether the pattern of a rule matches a name: * is any text, ? any one character. NULL matches.
coalesce(:name GLOB replace(:pattern, '[', '[[]'), 1);

-- 2. Whether a rule for an identity applies to a row with this identity. The keys are the normalised identities, which Python
-- computes; SQL can't. NULL and empty text match, on both sides. A row without a key was written by raw SQL. Its identity is
-- compared in lower case if it is printable ASCII without spaces, because that is its key. Any other identity matches, because its key is
-- unknown. The comparison in lower case is made beside a key too: a wrong key can add a match, but not prevent this one.
CASE WHEN coalesce(:rule_key, '') = '' OR coalesce(:identity, '') = '' OR :rule_key = lower(:identity) OR :rule_key = :identity_key THEN 1
    ELSE coalesce(:identity_key, '') = '' AND :identity GLOB '*[^!-~]*' END;

-- 3. Whether all conditions of a rule match the parameters of a proposal. A condition that can't be evaluated matches. Use it
-- in a CASE after the other fields of the rule, so that SQLite evaluates it for few rules.
--
-- Where trusted_schema is off, SQLite 3.40 allows json_each and json_tree, but not json_valid or json_type. New releases accept
-- JSON5, and all ignore what follows a NUL. The value of an object is its canonical JSON. So text that differs from it by more
-- than white space is not JSON. Text that is not even JSON5 is an error, which refuses the row.
--
-- The subquery for the document refers to no rule, so SQLite evaluates it once for each row. The queue of the recursion is
-- the only temporary table. In SQLite 3.40, a second temporary table in a statement costs 35 microseconds, more than several conditions.
NOT EXISTS (
    SELECT 1 FROM json_each(:conditions) AS listed
    WHERE NOT coalesce((
        SELECT (
            SELECT CASE
                WHEN found.depth = 0 AND found.value IS NULL OR found.visited <> found.depth + 1 THEN NULL
                WHEN condition.op = 'exists' THEN found.depth = condition.steps
                WHEN found.depth <> condition.steps THEN NULL
                ELSE (
                    SELECT max(CASE
                        WHEN condition.op = 'prefix' THEN CASE WHEN found.kind = 'text' AND operand.type = 'text'
                            THEN substr(found.value, 1, length(operand.value)) = operand.value END
                        WHEN found.kind = 'text' AND operand.type = 'text'
                            OR found.kind = 'number' AND operand.type = 'integer' AND typeof(found.value) = 'integer' AND typeof(operand.value) = 'integer'
                            THEN instr(condition.signs, CASE WHEN found.value = operand.value THEN '=' WHEN found.value < operand.value THEN '<' ELSE '>' END) > 0
                        WHEN found.kind = 'number' AND (operand.type = 'integer' OR operand.type = 'real')
                            THEN instr(condition.signs, CASE
                                WHEN operand.type = 'integer' AND typeof(operand.value) = 'real' OR abs(operand.value * 1.0) >= 1e308 THEN ''
                                WHEN found.value * 1.0 = operand.value * 1.0 THEN '='
                                WHEN abs(found.value * 0.5 - operand.value * 0.5) <= 5e-14 * max(abs(found.value * 1.0), abs(operand.value * 1.0)) THEN ''
                                WHEN found.value * 1.0 < operand.value * 1.0 THEN '<'
                                ELSE '>' END) > 0
                        WHEN found.kind = 'other' AND (operand.type = found.type OR operand.type = 'true' AND found.type = 'false' OR operand.type = 'false' AND found.type = 'true')
                            THEN CASE condition.signs WHEN '=' THEN operand.type = found.type WHEN '<>' THEN operand.type <> found.type END END)
                    FROM json_each(CASE WHEN condition.op <> 'in' THEN listed.value WHEN condition.type = 'array' THEN condition.value END) AS operand
                    WHERE condition.op = 'in' OR operand.key = 'value') END
            FROM (
                SELECT walked.depth, walked.visited, walked.type,
                    CASE walked.type
                        WHEN 'text' THEN 'text'
                        WHEN 'integer' THEN CASE typeof(walked.value) WHEN 'integer' THEN 'number' END
                        WHEN 'real' THEN CASE WHEN abs(walked.value) < 1e308 THEN 'number' END
                        WHEN 'true' THEN 'other' WHEN 'false' THEN 'other' WHEN 'null' THEN 'other' END AS kind,
                    CASE WHEN walked.type = 'real' AND abs(walked.value) < 1e-300 THEN 0.0 ELSE walked.value END AS value
                FROM (
                    WITH RECURSIVE walk (depth, type, value) AS (
                        SELECT 0, 'object', (
                            SELECT CASE WHEN document.type = 'object' AND (document.value = :parameters
                                OR replace(replace(replace(replace(document.value, ' ', ''), char(9), ''), char(10), ''), char(13), '')
                                    = replace(replace(replace(replace(:parameters, ' ', ''), char(9), ''), char(10), ''), char(13), ''))
                                THEN document.value END
                            FROM json_tree(CASE WHEN typeof(:parameters) = 'text'
                                AND NOT (instr(:parameters, '\u') AND (instr(:parameters, '\u0000') OR :parameters GLOB '*\u[dD][89a-fA-F]*'))
                                AND NOT (length(:parameters) >= 5000 AND :parameters GLOB '*[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]*')
                                THEN :parameters END) AS document
                            LIMIT 1)
                        UNION ALL
                        SELECT walk.depth + 1, member.type, member.value
                        FROM walk
                        CROSS JOIN json_each(condition.path) AS step ON +step.key = walk.depth
                        CROSS JOIN json_each(CASE WHEN walk.type = 'object' OR walk.type = 'array' THEN walk.value END) AS member ON +member.key IS step.value)
                    SELECT max(walk.depth) AS depth, count(*) AS visited, walk.type, walk.value FROM walk) AS walked) AS found)
        FROM (
            SELECT parts.op, parts.path, parts.type, parts.value, (SELECT count(*) FROM json_each(parts.path)) AS steps,
                CASE parts.op WHEN 'eq' THEN '=' WHEN 'in' THEN '=' WHEN 'ne' THEN '<>' WHEN 'lt' THEN '<' WHEN 'le' THEN '<='
                    WHEN 'gt' THEN '>' WHEN 'ge' THEN '>=' END AS signs
            FROM (
                SELECT max(CASE part.key WHEN 'op' THEN part.value END) AS op,
                    max(CASE WHEN part.key = 'path' AND part.type = 'array' THEN part.value END) AS path,
                    max(CASE part.key WHEN 'value' THEN part.type END) AS type,
                    max(CASE part.key WHEN 'value' THEN part.value END) AS value
                FROM json_each(CASE listed.type WHEN 'object' THEN listed.value END) AS part) AS parts) AS condition), 1));
