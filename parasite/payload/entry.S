// The parasite's entry table (offsets: parasite/wire.h) and the few lines that cannot be C++.
        .section .text.entry, "ax"
        .globl  relive_entry
relive_entry:
        .org    relive_entry + 0        // kRunEntry
        jmp     run
        .org    relive_entry + 16       // kLeaveEntry
        jmp     leave
        .org    relive_entry + 32       // kTrapEntry: the keeper is dead, the breakpoint became a signal
        jmp     trapped
        .org    relive_entry + 48       // kRestorerEntry
        mov     $15, %eax
        syscall
        .org    relive_entry + 64       // kSyscallEntry
        syscall
        jmp     leave

run:
        call    payload_run             // rdi: Program
        int3
leave:                                  // rbx: Control, rbp: ThreadBlock
        and     $-16, %rsp
        mov     %rbx, %rdi
        mov     %rbp, %rsi
        call    payload_leave
        ud2

trapped:                                // rdx: ucontext; rbp at 120, rbx at 128 (struct ucontext, sigcontext_64)
        mov     128(%rdx), %rbx
        mov     120(%rdx), %rbp
        jmp     leave

// long payload_create_thread(clone_args*, size, Control*, ThreadBlock*)
        .globl  payload_create_thread
        .hidden payload_create_thread
payload_create_thread:
        push    %rbx
        push    %rbp
        mov     %rdx, %rbx
        mov     %rcx, %rbp
        mov     $435, %eax              // clone3
        syscall
        test    %rax, %rax
        jz      leave
        pop     %rbp
        pop     %rbx
        ret

// void payload_sigreturn(ucontext*)
        .globl  payload_sigreturn
        .hidden payload_sigreturn
payload_sigreturn:
        mov     %rdi, %rsp
        mov     $15, %eax
        syscall
        ud2
        .section .note.GNU-stack, "", @progbits
