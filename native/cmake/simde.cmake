# SIMDe, the headers that the interpreter computes vectors with: from the Python package simde-py, whose version pyproject.toml pins.
# -DFETCHCONTENT_SOURCE_DIR_SIMDE=<checkout> takes another; -DPython_EXECUTABLE=<python> says which Python has it (pip does that).

if(NOT FETCHCONTENT_SOURCE_DIR_SIMDE)
    set(python "${Python_EXECUTABLE}")
    if(NOT python)
        set(python python3)
    endif()
    execute_process(
        COMMAND "${python}" -c "import pathlib, simde_py; print(pathlib.Path(simde_py.get_include()).parent)"
        OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(failed)
        message(FATAL_ERROR "the build needs SIMDe: pip install simde-py==0.8.2, or give a checkout with -DFETCHCONTENT_SOURCE_DIR_SIMDE=")
    endif()
    set(FETCHCONTENT_SOURCE_DIR_SIMDE "${found}")
endif()
