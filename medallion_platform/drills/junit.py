"""Results of drills as JUnit's XML, which CI servers read; pure.

https://github.com/testmoapp/junitxml: a drill that failed is a failure, one that shows nothing is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from medallion_platform.drills.verdict import Result, Verdict


def junit_of(results: Sequence[Result]) -> str:
    """The XML."""
    told = {
        "name": "medallion drill",
        "time": f"{sum(r.seconds for r in results):.1f}",
        "tests": str(len(results)),
        "failures": str(sum(r.verdict is Verdict.FAILED for r in results)),
        "skipped": str(sum(r.verdict is Verdict.INCONCLUSIVE for r in results)),
    }
    suite = ET.Element("testsuite", told)
    for result in results:
        told = {"classname": "drill", "name": result.drill.name, "time": f"{result.seconds:.1f}"}
        case = ET.SubElement(suite, "testcase", told)
        if result.verdict is Verdict.FAILED:
            ET.SubElement(case, "failure", {"message": result.reason})
        elif result.verdict is Verdict.INCONCLUSIVE:
            ET.SubElement(case, "skipped", {"message": result.reason})
        ET.SubElement(case, "system-out").text = json.dumps(result.as_row())
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
