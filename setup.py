"""Installation of fairseq_signals_ext."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "fairseq_signals_ext" / "__init__.py").read_text()).group(1)

FORMATS = [
    'ecgdatakit[dicom]; python_version >= "3.10"',
    "filelock",
    "h5py",
    "iterative-stratification",
    "jinja2",
    "joblib",
    "loky",
    "matplotlib",
    "pandas",
    "pyarrow",
    "pyyaml",
    "scipy",
    "soundfile",
    "tqdm",
    "xxhash",
]
# fetches collections from PhysioNet; records are read without it
DOWNLOAD = ["wfdb"]
TRAIN = [
    've-fairseq==0.12.3; python_version >= "3.11" and python_version < "3.13"',
    'fairseq==0.12.2; python_version < "3.11"',
    "pandas",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch>=2.2",  # on a CPU, gradients of GELU are wrong before (pytorch issue 112006)
    "tqdm",
]
# runs an exported model, of Python or with the commands predict and embed: numpy and these, no torch
ONNX = ["filelock", "onnxruntime"]
EXPORT = [*TRAIN, *ONNX, "onnx", "onnxscript"]
HUB = ["huggingface_hub"]
REPORT = ["jinja2", "matplotlib", "pandas", "pyarrow", "scikit-learn", "scipy"]
EMBED, EXPLAIN = ["umap-learn"], ["captum", "neurokit2"]
SERVE = ["fastapi", "jinja2", "python-multipart", "uvicorn"]
DASK, RAY = ["distributed"], ["ray"]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
DEMO = [*DOWNLOAD, *EXPORT, *EXPLAIN, *FORMATS, *REPORT]
DEV = [
    *DEMO,
    *DASK,
    *DOCS,
    *EMBED,
    *HUB,
    *SERVE,
    "httpx",
    "hypothesis",
    "import-linter",
    "mypy",
    "pypdf",
    "pytest",
    "pytest-xdist",
    "ruff",
]

setup(
    name="fairseq-signals-ext",
    version=VERSION,
    description="ECG-FM, the open electrocardiogram foundation model, as a plugin to stock fairseq",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.8",
    packages=find_packages(include=["fairseq_signals_ext", "fairseq_signals_ext.*"]),
    package_data={
        "fairseq_signals_ext": [
            *("configs/**/*.yaml", "pages/templates/*", "benchmarking/tasks/*.yaml"),
            *("labelling/maps/*.csv", "labelling/vocabulary/*.yaml", "labelling/label_sets/*.yaml"),
        ]
    },
    # reading exports and making plots need neither torch nor fairseq, so these are extras
    install_requires=["numpy"],
    extras_require={
        **{"train": TRAIN, "formats": FORMATS, "download": DOWNLOAD, "report": REPORT, "dask": DASK, "ray": RAY},
        **{"onnx": ONNX, "export": EXPORT, "hub": HUB},
        **{"embed": EMBED, "explain": EXPLAIN, "serve": SERVE, "demo": DEMO, "docs": DOCS},
        "dev": DEV,
    },
    entry_points={"console_scripts": ["fairseq-signals-ext = fairseq_signals_ext.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
