"""Patient, age and sex from the remarks of WFDB headers, in the ways of PhysioNet's collections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.readers.wfdb_remarks import facts_of

TOLD = {
    # what PhysioNet asks for, LUDB, INCART, BIDMC
    "<age>: 35  <sex>: M  <diagnoses>: (none)  <medications>: (none)": (35, "male", None),
    "<age>: 51|<sex>: F|<diagnoses>:|Rhythm: Sinus bradycardia.": (51, "female", None),
    "<age>: 65 <sex>: F <diagnoses> Coronary artery disease, arterial hypertension|patient 1": (65, "female", "1"),
    "<age>: 84, <sex>: F, <location>: micu, <source>: a40017": (84, "female", None),
    # Challenges, CODE-15%, European ST-T, BIDMC-CHF, MIT-BIH, ECG-ID, MIMIC-IV-ECG
    "Age: 74|Sex: Female|Dx: 1|Rx: Unknown|Hx: Unknown": (74, "female", None),
    "Exam ID: 7|Patient ID: 1331343|Age: 66|Sex: Female|Chagas label: True": (66, "female", "1331343"),
    "Age: 62  Sex: M|Mixed angina|1-vessel disease (RCA)": (62, "male", None),
    "Age: 71  Sex: M  NYHA class: III-IV": (71, "male", None),
    "69 M 1085 1629 x1|Aldomet, Inderal": (69, "male", None),
    "-1 M 1103 1629 x1": (None, "male", None),
    "24 F": (24, "female", None),
    "Age: 25|Sex: male|ECG date: 10.12.2004": (25, "male", None),
    "<subject_id>: 10000032": (None, None, "10000032"),
    # and others
    "Age: 45Y|Gender: F": (45, "female", None),
    "age=67|sex=f": (67, "female", None),
    "Age (years): 45|Gender: Male": (45, "male", None),
    "Age [y]: 45 Sex [M/F]: M": (45, "male", None),
    "Age in years: 45.5": (45.5, None, None),
    "AGE : 45 years at the time of recording": (45, None, None),
    "Patient age: 45, patient's sex: female": (45, "female", None),
    "Age: 45; Sex: M; Patient: P 1": (45, "male", "P 1"),
    "age: 45 M": (45, "male", None),
    "Age: 45/F": (45, "female", None),
    "Age: 6 months": (0.5, None, None),
    "Age: >89": (90, None, None),
    "Age: 90+": (90, None, None),
    "Sex: F (post-menopausal)": (None, "female", None),
    "Patient 1": (None, None, "1"),
    "patient #17": (None, None, "17"),
    "Subject: S07": (None, None, "S07"),
    "Subject ID: 12, visit 3": (None, None, "12"),
    "patient_id: 0007": (None, None, "0007"),
    "Patient no. 5": (None, None, "5"),
    "subject 12: at rest": (None, None, "12"),
    "participant_id=p-9": (None, None, "p-9"),
    # the first that is known
    "Age: NaN|Age: 50": (50, None, None),
    "Age: NaN|Sex: Unknown|Patient ID: unknown": (None, None, None),
    "Age: -1|Sex: -|Patient: X X X X": (None, None, None),
    "age: -  sex: -": (None, None, None),
    # of another kind
    "predicted age: 50": (None, None, None),
    "average: 7": (None, None, None),
    "Percentage: 50, stage: 3": (None, None, None),
    "Patient name: John Smith": (None, None, None),
    "patient 45 years old": (None, None, None),
    "patient with a pacemaker": (None, None, None),
    "12 Months": (None, None, None),
    "Unisex: F": (None, None, None),
    "sex unknown; age unknown": (None, None, None),
}


@pytest.mark.parametrize("remarks", TOLD)
def test_remarks(remarks):
    facts = facts_of(remarks.split("|"))
    assert (facts["age"], facts["sex"], facts["patient"]) == TOLD[remarks]


def test_codes():
    assert facts_of(["Dx: 426783006,164889003", "Dx: 7"])["codes"] == ("426783006", "164889003")
    assert facts_of(["Dx: Unknown"])["codes"] == facts_of(["Dx:"])["codes"] == facts_of([])["codes"] == ()


@given(
    st.lists(st.text(st.sampled_from("aAgGeE sSxX<>:=()#,;|-+0123456789MFpatientidubjc\t"), max_size=60), max_size=4)
)
def test_any_remark(remarks):
    facts = facts_of(remarks)
    assert facts["age"] is None or 0 <= facts["age"] <= 130
    assert facts["sex"] in (None, "female", "male")
    assert facts["patient"] is None or (facts["patient"] and "\n" not in facts["patient"])


def test_of_a_record_of_segments(tmp_path):
    """Facts from its header, and missing ones from the first segment's."""
    lines = "a.dat 16 200 16 0 0 0 0 I\n"
    (tmp_path / "a.hea").write_text(f"a 1 500 3\n{lines}# Age: 40\n# Sex: F\n")
    (tmp_path / "a.dat").write_bytes(b"\1\0" * 3)
    (tmp_path / "m.hea").write_text("m/1 1 500 3\na 3\n# <age>: 41 <sex>: -\n# patient 3\n")
    recording = read_ecg(tmp_path / "m.hea")
    assert (recording.age, recording.sex, recording.patient) == (41, "female", "3")
