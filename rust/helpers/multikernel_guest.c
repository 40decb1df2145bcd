// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_MULTIKERNEL_GUEST

#include <linux/cpufeature.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/math64.h>
#include <linux/smp.h>

#include <asm/apic.h>
#include <asm/barrier.h>

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
