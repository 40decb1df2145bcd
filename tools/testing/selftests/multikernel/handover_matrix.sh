#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The crash matrix of a hand-over: either side is ended before, in and after
# each step of the protocol, by force, by a panic, or only the process that has
# the session open. handover_matrix.txt has the lines, which the model yields,
# and what it allows to come of them; mksoak plays them on real kernels.
#
#   ONLY=TEXT   only lines that contain this
#
# vm: CPUS=4 MEM=1G TIMEOUT=900
exec mksoak --matrix handover_matrix.txt --cpus 2-3 --only "${ONLY:-}"
