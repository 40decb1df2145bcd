// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_MULTIKERNEL

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/kexec.h>
#include <linux/mm.h>
#include <linux/prefetch.h>
#include <linux/rcupdate.h>
#include <linux/sched/stat.h>
#include <linux/security.h>
#include <linux/smp.h>
#include <linux/topology.h>
#include <asm/apic.h>
#include <asm/barrier.h>
#include <asm/bios_ebda.h>
#include <asm/mwait.h>
#include <asm/realmode.h>
#include <asm/tsc.h>

__rust_helper u32 rust_helper_multikernel_cpu_apic_id(unsigned int cpu)
{
	return cpu_physical_id(cpu);
}

__rust_helper int rust_helper_multikernel_cpu_to_node(unsigned int cpu)
{
	return cpu_to_node(cpu);
}

__rust_helper bool rust_helper_multikernel_cpu_online(unsigned int cpu)
{
	return cpu_online(cpu);
}

__rust_helper bool rust_helper_multikernel_cpu_present(unsigned int cpu)
{
	return cpu_present(cpu);
}

__rust_helper unsigned int rust_helper_multikernel_num_online_cpus(void)
{
	return num_online_cpus();
}

__rust_helper bool rust_helper_multikernel_kexec_in_progress(void)
{
	return kexec_in_progress;
}

__rust_helper loff_t rust_helper_multikernel_file_size(struct file *file)
{
	struct inode *inode = file_inode(file);

	return S_ISREG(inode->i_mode) ? i_size_read(inode) : -EINVAL;
}

/* As add_cpu() and remove_cpu(), but for CPUs that may have been ejected. */
__rust_helper int
rust_helper_multikernel_cpu_device_set_online(unsigned int cpu, bool online)
{
	struct device *dev;
	int ret = -ENODEV;

	lock_device_hotplug();
	dev = get_cpu_device(cpu);
	if (dev)
		ret = online ? device_online(dev) : device_offline(dev);
	unlock_device_hotplug();
	return ret;
}

/* Where the BIOS says, in the BIOS data area, that its own memory begins. */
__rust_helper unsigned int rust_helper_multikernel_bios_ram_end(void)
{
	return *(unsigned short *)__va(0x413) << 10;
}

__rust_helper void *rust_helper_multikernel_phys_to_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

__rust_helper phys_addr_t rust_helper_multikernel_page_to_phys(struct page *page)
{
	return page_to_phys(page);
}

__rust_helper int rust_helper_multikernel_phys_to_nid(phys_addr_t phys)
{
	return page_to_nid(pfn_to_page(PHYS_PFN(phys)));
}

__rust_helper bool rust_helper_multikernel_node_exists(int nid)
{
	return nid >= 0 && nid < MAX_NUMNODES && node_state(nid, N_MEMORY);
}

__rust_helper void rust_helper_multikernel_cond_resched(void)
{
	cond_resched();
}

__rust_helper struct page *
rust_helper_multikernel_alloc_contig(unsigned long pages, bool below_4g, int nid)
{
	gfp_t gfp = (below_4g ? GFP_KERNEL | GFP_DMA32 : GFP_KERNEL) | __GFP_NOWARN;

	if (nid == NUMA_NO_NODE)
		nid = numa_mem_id();
	else
		gfp |= __GFP_THISNODE;
	return alloc_contig_pages(pages, gfp, nid, NULL);
}

__rust_helper phys_addr_t rust_helper_multikernel_realmode_base(void)
{
	return __pa(real_mode_header);
}

/* __ref: the difference of two addresses in init data, which is not read. */
__rust_helper size_t __ref rust_helper_multikernel_realmode_size(void)
{
	return real_mode_blob_end - real_mode_blob;
}

__rust_helper unsigned int rust_helper_multikernel_bios_ebda(void)
{
	return get_bios_ebda();
}

__rust_helper bool rust_helper_multikernel_x2apic_enabled(void)
{
	return x2apic_enabled();
}

__rust_helper void rust_helper_multikernel_bar_ipi_shorthand(bool bar)
{
	apic_bar_ipi_shorthand(bar);
}

__rust_helper unsigned int rust_helper_multikernel_lapic_timer_period(void)
{
	return lapic_timer_period;
}

__rust_helper unsigned int rust_helper_multikernel_tsc_khz(void)
{
	return tsc_khz;
}

__rust_helper void rust_helper_multikernel_send_init(u32 apic_id)
{
	weak_wrmsr_fence();
	preempt_disable();
	x86_send_init(apic_id);
	preempt_enable();
}

__rust_helper int rust_helper_multikernel_send_startup(u32 apic_id,
						       unsigned long start_ip)
{
	return x86_wakeup_via_init(apic_id, start_ip, 0);
}

/*
 * Neither MSR nor MMIO writes to the ICR order what was stored before, and
 * what was stored before is what these interrupts are about.
 */
__rust_helper void rust_helper_multikernel_send_ipi(u32 apic_id, u8 vector)
{
	unsigned long flags;

	weak_wrmsr_fence();
	local_irq_save(flags);
	safe_apic_wait_icr_idle();
	apic_icr_write(APIC_DM_FIXED | APIC_DEST_PHYSICAL | vector, apic_id);
	safe_apic_wait_icr_idle();
	local_irq_restore(flags);
}

__rust_helper u64 rust_helper_multikernel_rdtsc(void)
{
	return rdtsc_ordered();
}

__rust_helper bool rust_helper_multikernel_memory_encrypted(void)
{
	return cc_platform_has(CC_ATTR_MEM_ENCRYPT);
}

__rust_helper int
rust_helper_multikernel_locked_down(enum lockdown_reason reason)
{
	return security_locked_down(reason);
}

__rust_helper bool rust_helper_multikernel_need_resched(void)
{
	return need_resched();
}

__rust_helper bool rust_helper_multikernel_is_alone(void)
{
	return single_task_running();
}

__rust_helper bool rust_helper_multikernel_is_idle(void)
{
	return idle_cpu(raw_smp_processor_id());
}

/*
 * Until somebody writes to the cache line of @word, if that is still @seen, but
 * not longer than about a microsecond: by those forms of MWAIT which have a time
 * limit. The plain one has none but the next interrupt.
 */
__rust_helper void
rust_helper_multikernel_wait_for_write(const u64 *word, u64 seen)
{
	u32 cycles = tsc_khz / 1000;
	u64 end;

	if (boot_cpu_has(X86_FEATURE_MWAITX)) {
		__monitorx(word, 0, 0);
		if (READ_ONCE(*word) == seen)
			__mwaitx(MWAITX_DISABLE_CSTATES, cycles,
				 MWAITX_ECX_TIMER_ENABLE);
	} else if (boot_cpu_has(X86_FEATURE_WAITPKG)) {
		/* umonitor %rax */
		asm volatile(".byte 0xf3, 0x0f, 0xae, 0xf0" :: "a" (word));
		end = rdtsc() + cycles;
		/* umwait %ecx */
		if (READ_ONCE(*word) == seen)
			asm volatile(".byte 0xf2, 0x0f, 0xae, 0xf1"
				     :: "c" (TPAUSE_C01_STATE),
					"d" (upper_32_bits(end)),
					"a" (lower_32_bits(end))
				     : "cc");
	} else {
		cpu_relax();
	}
}

__rust_helper void rust_helper_multikernel_synchronize_rcu(void)
{
	synchronize_rcu();
}

__rust_helper void rust_helper_multikernel_prefetch(const void *line)
{
	prefetch(line);
}

__rust_helper void rust_helper_multikernel_prefetchw(const void *line)
{
	prefetchw(line);
}

__rust_helper int
rust_helper_multikernel_cpuhp_setup(enum cpuhp_state state, const char *name,
				    int (*startup)(unsigned int cpu))
{
	return cpuhp_setup_state_nocalls(state, name, startup, NULL);
}

#endif /* CONFIG_MULTIKERNEL */
