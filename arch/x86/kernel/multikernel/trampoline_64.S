/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The page that every lent CPU comes up in.
 *
 * A CPU arrives here in real mode by INIT and SIPI, goes straight to 64-bit
 * mode on the trampoline's own page tables, finds its mailbox by its APIC id,
 * and does what that says: park, or enter a spawn kernel. It uses no memory
 * but this page, the page tables and its mailbox, all of which belong to the
 * host and are lent to nobody.
 *
 * trampoline.rs copies the code into a page below 1 MiB and fills in what is
 * between multikernel_trampoline_data and the end; it also writes the
 * mailboxes. Offsets of a mailbox are those of `struct Mailbox` there.
 *
 * The state that INIT leaves: Intel SDM volume 3, table "IA-32 and Intel 64
 * Processor States Following Power-up, Reset, or INIT". CR0.CD and CR0.NW keep
 * their values, so CR0 is written whole.
 */

#include <linux/linkage.h>
#include <asm/msr-index.h>
#include <asm/processor-flags.h>
#include <asm/segment.h>

#define MAILBOX_APIC_ID		0
#define MAILBOX_COMMAND		4
#define MAILBOX_SEQUENCE	8
#define MAILBOX_ACK		16
#define MAILBOX_CR3		24
#define MAILBOX_ENTRY		32
#define MAILBOX_ARGUMENT	40
#define MAILBOX_ROLL_REQUEST	48
#define MAILBOX_ROLL_REPLY	56
#define MAILBOX_SIZE		256

#define COMMAND_ENTER		2
#define COMMAND_REST		3

	.section .rodata, "a", @progbits
	.balign 16

	.code16
SYM_INNER_LABEL(multikernel_trampoline_start, SYM_L_GLOBAL)
	cli
	cld
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	.Lgdt_pointer - multikernel_trampoline_start

	movl	$X86_CR4_PAE, %eax
	movl	%eax, %cr4
	movl	.Lcr3 - multikernel_trampoline_start, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	movl	$EFER_LME, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$(X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET | X86_CR0_PE), %eax
	movl	%eax, %cr0
	ljmpl	*(.Lfar_pointer - multikernel_trampoline_start)

	.code64
SYM_INNER_LABEL(multikernel_trampoline_long, SYM_L_GLOBAL)
	movl	$__BOOT_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs

	/*
	 * The APIC id, from CPUID: 32 bits from leaf 0xb (SDM volume 2A, CPUID;
	 * EBX is 0 where the leaf is not there), else 8 bits from leaf 1.
	 */
	xorl	%eax, %eax
	cpuid
	cmpl	$0xb, %eax
	jb	.Lapic_id_8_bits
	movl	$0xb, %eax
	xorl	%ecx, %ecx
	cpuid
	testl	%ebx, %ebx
	jz	.Lapic_id_8_bits
	movl	%edx, %edi
	jmp	.Lsearch
.Lapic_id_8_bits:
	movl	$1, %eax
	cpuid
	shrl	$24, %ebx
	movl	%ebx, %edi

.Lsearch:
	movq	.Lmailboxes(%rip), %rbx
	movl	.Lmailbox_count(%rip), %ecx
.Lnext:
	testl	%ecx, %ecx
	jz	.Llost
	cmpl	%edi, MAILBOX_APIC_ID(%rbx)
	je	.Lfound
	addq	$MAILBOX_SIZE, %rbx
	decl	%ecx
	jmp	.Lnext

	/* Nobody sent for this CPU. Wait for an INIT. */
.Llost:
	hlt
	jmp	.Llost

	/*
	 * A mailbox is being written while its sequence is 0, and was read
	 * whole if the sequence is the same before and after. x86 keeps loads
	 * in order.
	 */
.Lfound:
	movq	MAILBOX_SEQUENCE(%rbx), %rdx
	testq	%rdx, %rdx
	jz	.Lagain
	movl	MAILBOX_COMMAND(%rbx), %ecx
	movq	MAILBOX_CR3(%rbx), %r8
	movq	MAILBOX_ENTRY(%rbx), %rax
	movq	MAILBOX_ARGUMENT(%rbx), %rsi
	cmpq	%rdx, MAILBOX_SEQUENCE(%rbx)
	je	.Lread
.Lagain:
	pause
	jmp	.Lfound
.Lread:
	cmpl	$COMMAND_ENTER, %ecx
	je	.Lenter

	/*
	 * Park. An NMI finds a handler and a stack; a machine check too, which
	 * would otherwise shut the CPU down and reset the machine.
	 */
	leaq	MAILBOX_SIZE(%rbx), %rsp
	lidt	.Lidt_pointer(%rip)
	movl	$(X86_CR4_PAE | X86_CR4_MCE), %eax
	movq	%rax, %cr4
	movq	%rdx, MAILBOX_ACK(%rbx)

	/* Awake, until all are known to be here: answers the roll call. */
.Lparked:
	movq	MAILBOX_ROLL_REQUEST(%rbx), %rax
	movq	%rax, MAILBOX_ROLL_REPLY(%rbx)
	pause
	cmpl	$COMMAND_REST, MAILBOX_COMMAND(%rbx)
	jne	.Lparked
.Lresting:
	hlt
	jmp	.Lresting

	/*
	 * Enter a spawn kernel on page tables that map this page at the same
	 * address. From the acknowledgment on nothing of the host is used.
	 */
.Lenter:
	lidt	.Lno_idt_pointer(%rip)
	movq	%rdx, MAILBOX_ACK(%rbx)
	movq	%r8, %cr3
	xorl	%ebx, %ebx
	xorl	%ecx, %ecx
	xorl	%edx, %edx
	xorl	%edi, %edi
	xorl	%ebp, %ebp
	xorl	%esp, %esp
	xorl	%r8d, %r8d
	xorl	%r9d, %r9d
	xorl	%r10d, %r10d
	xorl	%r11d, %r11d
	xorl	%r12d, %r12d
	xorl	%r13d, %r13d
	xorl	%r14d, %r14d
	xorl	%r15d, %r15d
	jmp	*%rax

	/* NMI while parked: not for this CPU. */
SYM_INNER_LABEL(multikernel_trampoline_nmi, SYM_L_GLOBAL)
	iretq

	/*
	 * Machine check while parked: the host's CPUs log it. The status is
	 * cleared, as a second one would shut the CPU down otherwise.
	 */
SYM_INNER_LABEL(multikernel_trampoline_machine_check, SYM_L_GLOBAL)
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	movl	$MSR_IA32_MCG_STATUS, %ecx
	xorl	%eax, %eax
	xorl	%edx, %edx
	wrmsr
	popq	%rdx
	popq	%rcx
	popq	%rax
	iretq

	/* From here on it is data; trampoline.rs fills in what is 0. */
	.balign 16
SYM_INNER_LABEL(multikernel_trampoline_gdt, SYM_L_GLOBAL)
	.quad	0
	.quad	0
	.quad	0x00af9b000000ffff	/* __BOOT_CS: 64-bit code */
	.quad	0x00cf93000000ffff	/* __BOOT_DS: data */
.Lgdt_end:

	/* `struct Parameters` of trampoline.rs. */
	.balign 16
SYM_INNER_LABEL(multikernel_trampoline_data, SYM_L_GLOBAL)
.Lmailboxes:
	.quad	0
.Lmailbox_count:
	.long	0
.Lcr3:
	.long	0
.Lfar_pointer:
	.long	0			/* address of multikernel_trampoline_long */
	.word	__BOOT_CS
.Lgdt_pointer:
	.word	.Lgdt_end - multikernel_trampoline_gdt - 1
	.long	0			/* address of the GDT */
	.long	0			/* LGDT takes 8 bytes of base in 64-bit mode */
.Lidt_pointer:
	.word	19 * 16 - 1
	.quad	0			/* address of the IDT */
.Lno_idt_pointer:
	.word	0
	.quad	0
	.balign 16
SYM_INNER_LABEL(multikernel_trampoline_idt, SYM_L_GLOBAL)
	.fill	19 * 2, 8, 0		/* vectors 0 to 18 */
SYM_INNER_LABEL(multikernel_trampoline_end, SYM_L_GLOBAL)
