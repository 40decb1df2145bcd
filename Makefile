# SPDX-License-Identifier: GPL-2.0
#
# Entry points; each step is a script in scripts/multikernel/, which says in its
# first lines what it does and what can be set. "make help" lists them.

S := scripts/multikernel

# Handed to the scripts as they were given: a '$' in CMD is the guest's.
PASSED := CMD EXTRA CPUS MEM SMP NUMA X2APIC APPEND TIMEOUT ACCEL BOOT KERNEL INITRD \
	EXPECT_SPLAT QEMU_EXTRA KSRC KVER DEBUG TEST BUILD LINUX_REFRESH SETUP TIME SEED \
	N ROUND STAMPS UPGRADES BREAK HANG_MS RUNS BENCH LANE_RUNS
define pass
ifneq ($(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
# BUILD means an output folder to the scripts, and "build each step" to patches.
$(foreach name,$(filter-out BUILD,$(PASSED)),$(eval $(call pass,$(name))))
ifneq ($(BUILD),)
export SERIES_BUILD := $(BUILD)
endif
unexport BUILD

.PHONY: help setup linux build run vm check fuzz soak bench patches clean
# One step at a time: the scripts use all cores themselves.
.NOTPARALLEL:

help:
	@echo 'make run      install what is missing, fetch Linux, patch, build, boot, play the demo'
	@echo 'make check    every test; TEST=name runs those whose name contains it'
	@echo 'make vm       boot the host and run CMD="..." there, or a shell; see $(S)/vm for'
	@echo '              EXTRA, CPUS, MEM, NUMA, X2APIC, APPEND, TIMEOUT, ACCEL, ...'
	@echo 'make fuzz     random calls for TIME=60 seconds, the same again with SEED=number'
	@echo 'make soak     crash spawns at random and count what the host loses; N=1000 STAMPS=200 SEED='
	@echo '              UPGRADES=100: replace the kernel of a server under load, by 7.2 and 7.3 in turns'
	@echo 'make bench    the table of boot, life-cycle, message and hand-over times;'
	@echo '              BENCH=native,vm,handover,boot: a part of it'
	@echo 'make patches  the series in build/series; BUILD=1 builds each of its steps'
	@echo
	@echo 'The steps that the above take by themselves:'
	@echo 'make setup    packages and tools that this machine lacks'
	@echo 'make linux    build/linux: pristine + patches + our files; KSRC=tree or tarball, KVER=7.2'
	@echo 'make build    kernel, mkctl, user spaces, a Debian kernel; DEBUG=1: with KASAN and lockdep'
	@echo 'make clean    remove build/; the download cache stays'

setup:
	@$(S)/setup

linux: setup
	@$(S)/with-env $(S)/linux

build: linux
	@$(S)/build

vm: build
	@$(S)/with-env $(S)/vm

run: build
	@$(S)/run

check: build
	@$(S)/setup tests
	@$(S)/with-env $(S)/check

fuzz: build
	@TEST=fuzz $(S)/with-env $(S)/check

soak: build
	@$(S)/with-env $(S)/soak

bench: $(if $(filter native,$(BENCH)),setup,build)
	@$(S)/with-env $(S)/bench

patches: linux
	@$(S)/with-env $(S)/patches

clean:
	rm -rf build
