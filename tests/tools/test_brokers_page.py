"""The page on brokers says what the reports say."""

from pathlib import Path

from brokers_page import page, read

REPORT = """\
<testsuites><testsuite timestamp="2026-11-24T10:00:00" time="12.4">
<properties>
<property name="broker" value="NATS 2.9.10"/><property name="cores" value="2"/>
</properties>
<testcase name="test_a"/>
<testcase name="test_b"><skipped type="pytest.skip" message="no MQTT 5">x</skipped></testcase>
<testcase name="test_c"><skipped type="pytest.skip" message="no MQTT 5">x</skipped></testcase>
<testcase name="test_d"><skipped type="pytest.xfail" message="NATS closes"/></testcase>
<testcase name="test_e"><failure message="boom">x</failure></testcase>
<testcase name="test_f"><error message="boom">x</error></testcase>
</testsuite></testsuites>
"""


def test_every_outcome_is_counted_and_told_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "nats.xml"
    path.write_text(REPORT)
    told = page([read(path)])
    assert "one run, 2 cores, 2026-11-24:" in told
    assert "| NATS 2.9.10 | 1 | 2 | 1 | 2 | 12 |" in told
    rows = [line for line in told.splitlines() if line[:3] in {"| 1", "| 2"}]
    assert rows == [
        "| 1 | failed | `test_e` |",
        "| 1 | failed | `test_f` |",
        "| 1 | fails as told | NATS closes |",
        "| 2 | skipped | no MQTT 5 |",
    ]
