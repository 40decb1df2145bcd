/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The payload's code; see payload.h. Position-independent, no relocations: it
 * is copied as it stands.
 */
#include "payload.h"

#define MSR_APIC_BASE		0x1b
#define APIC_BASE_X2APIC	0x400
#define MSR_X2APIC_ICR		0x830
#define APIC_ADDRESS		0xfee00000
#define APIC_ICR_LOW		0x300
#define APIC_ICR_HIGH		0x310
#define ICR_FIXED		0x4000
#define ICR_NMI			0x4400
#define ICR_INIT		0x4500
#define ICR_STARTUP		0x4600
#define ICR_BUSY		0x1000

	.section .rodata, "a", @progbits
	.balign 64
	.code64
	.globl payload_begin
payload_begin:
	/* Of the registers only RSI and RAX may hold anything: save them first. */
	movq	%rax, CONTROL_SCRATCH(%rsi)
	movq	CONTROL_SHARED(%rsi), %rax
	leaq	RECORD_OFFSET(%rax), %rax
	movq	%rsi, RECORD_RSI(%rax)
	movq	%rbx, RECORD_OTHERS + 0(%rax)
	movq	%rcx, RECORD_OTHERS + 8(%rax)
	movq	%rdx, RECORD_OTHERS + 16(%rax)
	movq	%rdi, RECORD_OTHERS + 24(%rax)
	movq	%rbp, RECORD_OTHERS + 32(%rax)
	movq	%rsp, RECORD_OTHERS + 40(%rax)
	movq	%r8, RECORD_OTHERS + 48(%rax)
	movq	%r9, RECORD_OTHERS + 56(%rax)
	movq	%r10, RECORD_OTHERS + 64(%rax)
	movq	%r11, RECORD_OTHERS + 72(%rax)
	movq	%r12, RECORD_OTHERS + 80(%rax)
	movq	%r13, RECORD_OTHERS + 88(%rax)
	movq	%r14, RECORD_OTHERS + 96(%rax)
	movq	%r15, RECORD_OTHERS + 104(%rax)
	movq	%rax, %rbx
	movq	CONTROL_SCRATCH(%rsi), %rax
	movq	%rax, RECORD_RAX(%rbx)
	movq	%cr0, %rax
	movq	%rax, RECORD_CR0(%rbx)
	movq	%cr3, %rax
	movq	%rax, RECORD_CR3(%rbx)
	movq	%cr4, %rax
	movq	%rax, RECORD_CR4(%rbx)
	movl	$0xc0000080, %ecx
	rdmsr
	movl	%eax, RECORD_EFER(%rbx)
	movl	%edx, RECORD_EFER + 4(%rbx)
	xorl	%eax, %eax
	movl	%cs, %eax
	movq	%rax, RECORD_CS(%rbx)
	movl	%ss, %eax
	movq	%rax, RECORD_SS(%rbx)
	movq	CONTROL_STACK(%rsi), %rsp
	pushfq
	popq	RECORD_FLAGS(%rbx)
	movq	$1, RECORD_DONE(%rbx)

	/* RBP is the shared area, RSI the control page, from here on. */
	movq	CONTROL_SHARED(%rsi), %rbp
	movq	CONTROL_MODE(%rsi), %rax
	cmpl	$MODE_SPIN, %eax
	je	spin
	cmpl	$MODE_HALT, %eax
	je	halt
	/* The others need the local APIC, which their own page tables map. */
	movq	CONTROL_CR3(%rsi), %rbx
	movq	%rbx, %cr3
	cmpl	$MODE_NMI, %eax
	je	nmi
	cmpl	$MODE_OBEY, %eax
	je	obey
	cmpl	$MODE_PANIC, %eax
	je	panic
	cmpl	$MODE_RESTART, %eax
	je	restart
	cmpl	$MODE_STORM, %eax
	je	storm
halt:
	incq	SHARED_COUNTER(%rbp)
	cli
	hlt
	jmp	halt

spin:
	incq	SHARED_COUNTER(%rbp)
	pause
	jmp	spin

panic:
	movl	$4, SHARED_GUEST_STATE(%rbp)
	call	ring_host
	jmp	halt

restart:
	movl	$3, SHARED_GUEST_STATE(%rbp)
	call	ring_host
	jmp	halt

obey:
	call	own_id
	movl	%edi, SHARED_GUEST_APIC_ID(%rbp)
	movl	$0x41, SHARED_GUEST_VECTOR(%rbp)
	movq	$2, SHARED_GUEST_FEATURES(%rbp)
	movl	$1, SHARED_GUEST_STATE(%rbp)
1:	incq	SHARED_COUNTER(%rbp)
	pause
	cmpl	$1, SHARED_REQUEST(%rbp)
	jne	1b
	movl	$2, SHARED_GUEST_STATE(%rbp)
	call	ring_host
	jmp	halt

	/* An IDT and a GDT on the stack, with one gate: NMI. */
nmi:
	leaq	nmi_handler(%rip), %rax
	movq	%rsp, %rdi
	subq	$0x100, %rdi
	movw	%ax, 0x20(%rdi)
	movw	$0x8, 0x22(%rdi)
	movw	$0x8e00, 0x24(%rdi)
	shrq	$16, %rax
	movw	%ax, 0x26(%rdi)
	shrq	$16, %rax
	movl	%eax, 0x28(%rdi)
	movl	$0, 0x2c(%rdi)
	leaq	-0x80(%rdi), %rsp
	pushq	%rdi
	pushw	$0x2f
	lidt	(%rsp)
	movq	$0, 0x40(%rdi)
	movabsq	$0x00af9b000000ffff, %rax
	movq	%rax, 0x48(%rdi)
	leaq	0x40(%rdi), %rax
	addq	$10, %rsp
	pushq	%rax
	pushw	$0xf
	lgdt	(%rsp)
	addq	$10, %rsp
	call	own_id
	movl	$ICR_NMI, %r8d
	call	send_ipi
1:	pause
	jmp	1b
nmi_handler:
	incq	SHARED_COUNTER(%rbp)
	pause
	jmp	nmi_handler

	/* Starts the sibling, which restarts this CPU at the same page. */
storm:
	movl	CONTROL_SIBLING(%rsi), %edi
	movl	$ICR_INIT, %r8d
	call	send_ipi
	movl	$20000, %ecx
1:	pause
	loop	1b
	movl	CONTROL_STARTUP(%rsi), %r8d
	shrl	$12, %r8d
	orl	$ICR_STARTUP, %r8d
	call	send_ipi
	movl	$20000, %ecx
1:	pause
	loop	1b
	jmp	storm

ring_host:
	movl	SHARED_HOST_APIC_ID(%rbp), %edi
	movl	SHARED_HOST_VECTOR(%rbp), %r8d
	orl	$ICR_FIXED, %r8d
	jmp	send_ipi

	/* EDI: the APIC id of this CPU. */
own_id:
	movl	$0xb, %eax
	xorl	%ecx, %ecx
	cpuid
	movl	%edx, %edi
	testl	%ebx, %ebx
	jnz	1f
	movl	$1, %eax
	cpuid
	shrl	$24, %ebx
	movl	%ebx, %edi
1:	ret

	/* Sends R8D to EDI. */
send_ipi:
	movl	$MSR_APIC_BASE, %ecx
	rdmsr
	testl	$APIC_BASE_X2APIC, %eax
	jnz	2f
	movl	$APIC_ADDRESS, %ecx
	movl	%edi, %eax
	shll	$24, %eax
	movl	%eax, APIC_ICR_HIGH(%rcx)
	movl	%r8d, APIC_ICR_LOW(%rcx)
1:	pause
	testl	$ICR_BUSY, APIC_ICR_LOW(%rcx)
	jnz	1b
	ret
2:	movl	%edi, %edx
	movl	%r8d, %eax
	movl	$MSR_X2APIC_ICR, %ecx
	wrmsr
	ret
	.globl payload_end
payload_end:

	/*
	 * The storm's page, below 1 MiB: from real mode to 32-bit mode without
	 * paging, count, restart the other.
	 */
	.balign 64
	.code16
	.globl storm_begin
storm_begin:
	cli
	movw	%cs, %ax
	movw	%ax, %ds
	xorl	%ebp, %ebp
	movw	%ax, %bp
	shll	$4, %ebp
	lgdtl	storm_gdt_pointer - storm_begin
	movl	$0x11, %eax
	movl	%eax, %cr0
	ljmpl	*(storm_far_pointer - storm_begin)

	.code32
	.globl storm_long
storm_long:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$0xb, %eax
	xorl	%ecx, %ecx
	cpuid
	testl	%ebx, %ebx
	jnz	1f
	movl	$1, %eax
	cpuid
	shrl	$24, %ebx
	movl	%ebx, %edx
	/* EDI is the other, ESI the address of this CPU's counter. */
1:	movl	storm_data - storm_begin + STORM_COUNTERS(%ebp), %esi
	movl	storm_data - storm_begin + STORM_IDS + 4(%ebp), %edi
	cmpl	storm_data - storm_begin + STORM_IDS(%ebp), %edx
	je	storm_loop
	addl	$4, %esi
	movl	storm_data - storm_begin + STORM_IDS(%ebp), %edi
storm_loop:
	incl	(%esi)
	movl	$ICR_INIT, %ebx
	leal	1f - storm_begin(%ebp), %edx
	jmp	storm_send
1:	movl	%ebp, %ebx
	shrl	$12, %ebx
	orl	$ICR_STARTUP, %ebx
	leal	storm_loop - storm_begin(%ebp), %edx
	/* Sends EBX to EDI, waits, goes on at EDX. */
storm_send:
	movl	%edx, %esp
	movl	$MSR_APIC_BASE, %ecx
	rdmsr
	testl	$APIC_BASE_X2APIC, %eax
	jnz	2f
	movl	%edi, %eax
	shll	$24, %eax
	movl	%eax, APIC_ADDRESS + APIC_ICR_HIGH
	movl	%ebx, APIC_ADDRESS + APIC_ICR_LOW
	jmp	3f
2:	movl	%edi, %edx
	movl	%ebx, %eax
	movl	$MSR_X2APIC_ICR, %ecx
	wrmsr
3:	movl	$5000, %ecx
4:	pause
	loop	4b
	jmp	*%esp

	.balign 8
	.globl storm_gdt
storm_gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
	.globl storm_gdt_pointer
storm_gdt_pointer:
	.word	23
	.long	0
	.balign 8
	.globl storm_data
storm_data:
	.long	0, 0		/* STORM_IDS */
	.long	0		/* STORM_COUNTERS */
	.globl storm_far_pointer
storm_far_pointer:
	.long	0
	.word	0x8
	.globl storm_end
storm_end:

	.section .note.GNU-stack, "", @progbits
