"""The order of imports in the package, the length of files, and the printed graph."""

import textwrap

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


def test_the_graph_is_printed(capsys):
    layout.main()
    printed = capsys.readouterr().out
    assert "models      -> errors" in printed and "imports upwards and circles: none" in printed
    assert "files of more than 400 lines: none" in printed
