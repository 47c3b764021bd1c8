"""End codes, causes and digests by raw SQL: what both databases refuse."""

from typing import Final

WRONG_CODES: Final = (
    "", "Denied", "denied ", " denied", "denied\n", "den", "denied,failed", "validated", "completed", "x" * 300, "déni",
)  # fmt: skip

CAUSES: Final = (
    '{"rule":3}', '{"decision":7}', '{"grant":1}', '{"halt":2}', '{"limit":4}', '{"proposal":12}',
    '{"halt":4611686018427387903}',
)  # fmt: skip

WRONG_CAUSES: Final = (
    "", "{}", "null", "3", "rule", '{"rule": 3}', '{"rule":3} ', ' {"rule":3}', '{"rule":3}\n', '{ "rule":3}',
    '{"rule":03}', '{"rule":0}', '{"rule":-1}', '{"rule":1.0}', '{"rule":1e3}', '{"rule":"3"}', '{"rule":null}', '{"rule":}',
    '{"rule":3,"halt":2}', '{"rule":3}{"halt":2}', '{"Rule":3}', '{"rules":3}', '{"end_code":"denied"}', '{"digest":1}',
    '{"halt":4611686018427387904}', '{"halt":9223372036854775808}', '{"halt":99999999999999999999}', '["rule",3]', '[{"rule":3}]',
    '{"rule":3}}', '{"rule":3', '{"rule":\u0663}', '{"rule":+3}', '{"rule":3 }',
)  # fmt: skip

DIGEST: Final = "oc1:" + "0123456789abcdef" * 4
OTHER: Final = "oc1:" + "f" * 64

WRONG_DIGESTS: Final = (
    "", "oc1:", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), DIGEST[:-1] + "g", DIGEST[:-1] + "F", "oc2:" + DIGEST[4:],
    DIGEST[4:], "0" * 68, " " + DIGEST[:-1], DIGEST[:-1] + "\n", "oc1:oc1:" + "0" * 60, "0oc1:" + "0" * 63, "oc1:" + "٣" * 64,
)  # fmt: skip
