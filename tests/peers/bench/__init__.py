# SPDX-License-Identifier: MIT
"""Measures Rondo beside Open MPI, MPICH and Gloo; see ../README.md and ../run."""
