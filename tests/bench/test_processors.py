"""Kinds of processor that share a name are told apart."""

import platform

from nabla_tau.bench import processors


def test_family_and_model_are_told_where_linux_knows_them(tmp_path, monkeypatch):
    information = tmp_path / "cpuinfo"
    information.write_text("processor\t: 0\nmodel name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 17\n")
    monkeypatch.setattr(processors, "_INFORMATION", information)
    assert processors.processor() == "AMD EPYC (family 25, model 17)"
    information.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # as an ARM has it
    assert processors.processor() == (platform.processor() or platform.machine())
    monkeypatch.setattr(processors, "_INFORMATION", tmp_path / "none")
    assert processors.processor_kind().startswith(f"{platform.processor() or platform.machine()}, ")
