"""The first module of the file that `make plugin` makes, as its `__main__`.

Docker asks for the plugin's metadata at each `docker --help`: that is answered out of the archive, with two of its
modules. Any other call needs compiled libraries, which Python cannot load from an archive, and so the unpacked one.
"""

import sys


def _run() -> int:
    if sys.argv[1:2] != ["docker-cli-plugin-metadata"]:
        from linkwire_unpack import unpacked  # type: ignore[import-not-found] # noqa: PLC0415 - metadata needs it not

        sys.path[0] = unpacked(sys.path[0])
    from compose_ext.plugin import main  # noqa: PLC0415 - from where sys.path now says

    return main()


sys.exit(_run())
