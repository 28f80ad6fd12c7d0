# Real mode: loop for ever, so that somebody else has to end the run.

    .intel_syntax noprefix
    .code16

    .globl _start
_start:
    jmp _start
