"""Everything about the package comes from settings.ini; this file only hands it to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(ROOT / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def lines(key: str) -> list[str]:
    """The values of a multi-line setting, one a line."""
    return [line.strip() for line in settings.get(key, "").splitlines() if line.strip()]


readme = ROOT / "README.md"
setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    keywords=settings["keywords"].split(),
    # Without this, a folder that holds the clone hides the package from programs started there.
    options={"editable_wheel": {"mode": "compat"}},
    packages=find_packages(include=["memdpc", "memdpc.*"]),
    package_data={"memdpc": ["py.typed"]},
    python_requires=">=" + settings["min_python"],
    install_requires=lines("requirements"),
    extras_require={"notebooks": lines("notebooks_requirements"), "dev": lines("dev_requirements")},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": ["memdpc=memdpc._modidx:d"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
