// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_MULTIKERNEL_GUEST

#include <linux/cpufeature.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/math64.h>
#include <linux/smp.h>
#include <linux/vmcore_info.h>

#include <asm/apic.h>
#include <asm/barrier.h>
#include <asm/msr.h>
#include <asm/special_insns.h>

__rust_helper void rust_helper_multikernel_guest_tsc_is_known(u32 khz)
{
	setup_force_cpu_cap(X86_FEATURE_TSC_KNOWN_FREQ);
	if (!preset_lpj)
		preset_lpj = div_u64((u64)khz * 1000, HZ);
}

/* bindgen cannot take <asm/apic.h>: it has both a type and a variable "apic". */
__rust_helper void rust_helper_multikernel_guest_set_lapic_period(unsigned int clocks)
{
	lapic_timer_period = clocks;
}

__rust_helper u32 rust_helper_multikernel_guest_apic_id(unsigned int cpu)
{
	return cpu_physical_id(cpu);
}

__rust_helper unsigned int rust_helper_multikernel_guest_online_cpus(void)
{
	return num_online_cpus();
}

__rust_helper unsigned int rust_helper_multikernel_guest_this_cpu(void)
{
	return raw_smp_processor_id();
}

/* What an interrupt does not save. */
__rust_helper void
rust_helper_multikernel_guest_read_state(u64 *fs_base, u64 *gs_base, u64 *cr2,
					 u64 *cr3)
{
	rdmsrq(MSR_FS_BASE, *fs_base);
	rdmsrq(MSR_GS_BASE, *gs_base);
	*cr2 = native_read_cr2();
	*cr3 = __native_read_cr3();
}

__rust_helper phys_addr_t rust_helper_multikernel_guest_vmcoreinfo(u32 *size)
{
	*size = VMCOREINFO_NOTE_SIZE;
	return vmcoreinfo_note ? paddr_vmcoreinfo_note() : 0;
}

__rust_helper void rust_helper_multikernel_guest_stop_other_cpus(void)
{
	local_irq_disable();
	smp_send_stop();
}

__rust_helper void rust_helper_multikernel_guest_ring(u32 apic_id, u32 vector)
{
	unsigned long flags;

	if (!apic_id_valid(apic_id))
		return;
	/* Neither MSR nor MMIO writes to the ICR order what was stored before. */
	weak_wrmsr_fence();
	local_irq_save(flags);
	/* A timeout here leaves nothing better to do than to try. */
	safe_apic_wait_icr_idle();
	apic_icr_write(APIC_DEST_PHYSICAL | APIC_DM_FIXED | vector, apic_id);
	local_irq_restore(flags);
}

#endif /* CONFIG_MULTIKERNEL_GUEST */
