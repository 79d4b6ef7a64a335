"""Order of imports, names and sizes of the package and the tests."""

import textwrap

import pytest

from tests import layout


def test_every_room_has_its_rank():
    assert set(layout.rooms_graph(layout.imports())) <= set(layout.RANKS), (
        "give the new room its rank in tests/layout.py"
    )


def test_nothing_imports_upwards():
    assert layout.upward(layout.imports()) == []


def test_no_circle():
    graph = layout.imports()
    assert layout.circles(graph) == [] and layout.circles(layout.rooms_graph(graph)) == []


def test_few_modules_in_the_root():
    assert len(layout.root_modules()) <= layout.MOST_ROOT_MODULES


def test_no_file_of_the_package_or_the_tests_is_long():
    assert layout.long_files(layout.PACKAGE, layout.TESTS) == []


def test_a_long_file_is_named_with_its_lines(tmp_path):
    for name, lines in (("short", 400), ("inner/long", 401), ("longer", 500)):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 1\n" * lines)
    assert layout.long_files(tmp_path) == [f"{tmp_path}/longer.py: 500", f"{tmp_path}/inner/long.py: 401"]


def test_faults_are_found(tmp_path):
    """A package that imports upwards inside a function, and in a circle."""
    package = tmp_path / "package"
    for name, text in {
        "__init__": "",
        "errors": "",
        "data/__init__": "",
        "data/store": """
            import package.errors
            from package.stages import fit
            """,
        "stages/__init__": "",
        "stages/fit": """
            def later():
                from package.data.store import Store
            """,
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    graph = layout.imports(package)
    assert graph["package.data.store"] == {"package.errors", "package.stages.fit"}
    assert layout.upward(graph) == ["package.data.store imports package.stages.fit"]
    assert layout.circles(graph) == [["package.data.store", "package.stages.fit"]]
    assert layout.circles(layout.rooms_graph(graph)) == [["data", "stages"]]
    assert layout.root_modules(package) == ["__init__.py", "errors.py"]


def test_only_the_root_may_name_parts_for_type_checkers_alone(tmp_path):
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import package.{}\n"
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(for_types.format("data"))
    (package / "data.py").write_text("import package\n")
    (package / "errors.py").write_text(for_types.format("data"))
    graph = layout.imports(package)
    assert graph == {"package": set(), "package.data": {"package"}, "package.errors": {"package.data"}}
    (package / "__init__.py").write_text("import package.data\n")
    assert layout.circles(layout.imports(package)) == [["package", "package.data"]]


@pytest.mark.slow
def test_the_graph_is_printed(capsys):
    layout.main()
    printed = capsys.readouterr().out
    assert "models      -> errors" in printed and "imports upwards and circles: none" in printed
    assert "files of more than 400 lines: none" in printed


def test_no_test_reaches_into_private_names():
    assert layout.private_reach() == [], "make the name public, or test through the public interface"


def test_every_use_of_a_private_name_is_found(tmp_path):
    path = tmp_path / "tests" / "inner" / "test_uses.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        textwrap.dedent("""
            import package.data as data
            from package import _hidden
            from package.model import Model
            from elsewhere import other


            def test_uses(monkeypatch):
                data._limit
                Model(1).layers[0]._width
                monkeypatch.setattr("package.model._depth", 1)
                monkeypatch.setattr(Model, "_size", 2)
                Model(1).__doc__, Model(1)._replace(), other._private, "package.model.depth", "_size"
            """)
    )
    file = "tests/inner/test_uses.py"
    assert layout.private_reach(tmp_path / "tests", "package") == [
        f"{file}:3 import of package._hidden",
        f"{file}:9 data._limit",
        f"{file}:10 Model(1).layers[0]._width",
        f"{file}:11 'package.model._depth'",
        f"{file}:12 monkeypatch.setattr(Model, '_size', 2)",
    ]


def test_tests_mirror_the_package():
    assert layout.unmatched_test_folders() == []
    assert all((layout.TESTS / folder).is_dir() for folder in layout.EXTRA_TEST_FOLDERS)


def test_a_test_folder_without_a_part_of_the_package_is_found(tmp_path):
    for name in (
        "package/data/store.py",
        "tests/data/store/test_units.py",
        "tests/data/old/test_old.py",
        "tests/launch/test_x.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert layout.unmatched_test_folders(tmp_path / "tests", tmp_path / "package") == ["data/old"]


FAULTY_NAMES = {
    "one": """
        class Block: ...
        def main(): ...
        def load(a, b, *, c, d, e, f, g): ...
        def _private(): ...
        """,
    "two": """
        class Outer:
            def load(self, a, b, c, d, e, f): ...
            class Block: ...
        def main(): ...
        def load(): ...
        def _private(): ...
        """,
}


@pytest.fixture
def faulty_names(tmp_path):
    package = tmp_path / "accdistill_jax"
    package.mkdir()
    for name, text in FAULTY_NAMES.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text))
    return package


def test_shared_names_are_found(faulty_names):
    both = ["accdistill_jax.one", "accdistill_jax.two"]
    assert layout.shared_names(faulty_names) == {"Block": both, "load": both, "main": both}
    assert layout.unexplained_shared_names(faulty_names) == [f"{name}: {', '.join(both)}" for name in ("Block", "load")]


def test_many_parameters_are_found(faulty_names):
    assert layout.many_parameters(faulty_names) == ["accdistill_jax/one.py:4 load: 7"]


def test_functions_have_few_parameters_and_docstrings_say_what_a_thing_is():
    assert layout.many_parameters() == []
    assert layout.docstring_openings(layout.PACKAGE, layout.TESTS) == []


def test_relative_openings_are_found(tmp_path):
    (tmp_path / "module.py").write_text(
        '"""What it is."""\ndef f():\n    """Whatever."""\ndef g():\n    """Whether so."""\n'
    )
    assert layout.docstring_openings(tmp_path) == ["module.py:1 What it is.", "module.py:4 Whether so."]


def test_names_of_classes_and_public_functions_are_unique():
    assert layout.unexplained_shared_names() == []
    assert set(layout.PROTOCOLS) <= set(layout.shared_names()), "a protocol that no two modules follow"
