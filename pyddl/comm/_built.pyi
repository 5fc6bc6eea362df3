"""The MPI that pyddl.comm._mpi was built against; CMake writes the module."""

FAMILY: str
VERSION: str
COMPILER: str
