/* Instructions of the fast interpreter that no module has: the loader makes them of two (fuse.h), or of a branch that takes no values
 * along. Their places in code: those of both, without those of what only goes from one to the other, then where a branch goes. */
#pragma once

/* Comparisons of 32 bits that a branch may follow: name, type, operator; eqz has one operand. */
#define PW_COMPARISONS(X)                                                                                                              \
    X(I32_EQ, uint32, ==)                                                                                                              \
    X(I32_NE, uint32, !=)                                                                                                              \
    X(I32_LT_S, int32, <)                                                                                                              \
    X(I32_LT_U, uint32, <)                                                                                                             \
    X(I32_GT_S, int32, >)                                                                                                              \
    X(I32_GT_U, uint32, >)                                                                                                             \
    X(I32_LE_S, int32, <=)                                                                                                             \
    X(I32_LE_U, uint32, <=)                                                                                                            \
    X(I32_GE_S, int32, >=)                                                                                                             \
    X(I32_GE_U, uint32, >=)                                                                                                            \
    X(I32_AND, uint32, &)

/* The others; of a pair the first one's result is kept too, as it may be a local variable. */
#define PW_OTHERS(X)                                                                                                                   \
    X(BR)                                                                                                                              \
    X(BR_IF)                                                                                                                           \
    X(BR_IF_I32_EQZ)                                                                                                                   \
    X(BR_IF_I32_ADD)                                                                                                                   \
    X(I32_ADD_ADD)                                                                                                                     \
    X(I32_SHL_ADD)                                                                                                                     \
    X(I32_ADD_LOAD)                                                                                                                    \
    X(I32_ADD_LOAD8_U)                                                                                                                 \
    X(I32_ADD_LOAD16_U)

#define PW_BRANCH_OPCODE(name, type, operator) PW_OP_BR_IF_##name,
#define PW_OTHER_OPCODE(name) PW_OP_##name,

enum {
    PW_OP_FIRST = 255, /* the last that is a byte */
    PW_OTHERS(PW_OTHER_OPCODE) PW_COMPARISONS(PW_BRANCH_OPCODE)
};
