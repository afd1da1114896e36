/* What the instructions of opcodes.h do; within the loop of the mended wasm_interp_fast.c (wamr_source.cmake, wamr_fuse_instructions).
 * The place of an end by fuel or by an order to stop is that of the branch: frame_ip is behind it. */
            HANDLE_OP(PW_OP_BR)
            {
                frame_ip += sizeof(uint8 *);
                CHECK_SUSPEND_FLAGS();
                frame_ip = (uint8 *)LOAD_PTR(frame_ip - sizeof(uint8 *));
                HANDLE_OP_END();
            }

/* Two jumps to what comes next are two that the processor foresees. */
#define PW_BRANCH_IF(condition, size)                                                                                                  \
    {                                                                                                                                  \
        bool taken = (condition) != 0;                                                                                                 \
        frame_ip += size + sizeof(uint8 *);                                                                                            \
        CHECK_SUSPEND_FLAGS();                                                                                                         \
        if (taken) {                                                                                                                   \
            frame_ip = (uint8 *)LOAD_PTR(frame_ip - sizeof(uint8 *));                                                                  \
            HANDLE_OP_END();                                                                                                           \
        }                                                                                                                              \
        HANDLE_OP_END();                                                                                                               \
    }
            HANDLE_OP(PW_OP_BR_IF)
            PW_BRANCH_IF(GET_OPERAND(uint32, I32, 0), 2)

            HANDLE_OP(PW_OP_BR_IF_I32_EQZ)
            PW_BRANCH_IF(GET_OPERAND(uint32, I32, 0) == 0, 2)

#define PW_BRANCH_HANDLER(name, type, operator)                                                                                        \
    HANDLE_OP(PW_OP_BR_IF_##name)                                                                                                      \
    PW_BRANCH_IF(GET_OPERAND(type, I32, 2) operator GET_OPERAND(type, I32, 0), 4)

            PW_COMPARISONS(PW_BRANCH_HANDLER)

            /* What is added up last is read after the first sum is written, which it may be. */
#define PW_ADD_HANDLER(name, first)                                                                                                    \
    HANDLE_OP(PW_OP_##name)                                                                                                            \
    {                                                                                                                                  \
        uint32 sum = first;                                                                                                            \
        SET_OPERAND(I32, 4, sum);                                                                                                      \
        SET_OPERAND(I32, 8, sum + GET_OPERAND(uint32, I32, 6));                                                                        \
        frame_ip += 10;                                                                                                                \
        HANDLE_OP_END();                                                                                                               \
    }
#define PW_SUM (GET_OPERAND(uint32, I32, 2) + GET_OPERAND(uint32, I32, 0))
            PW_ADD_HANDLER(I32_ADD_ADD, PW_SUM)
            PW_ADD_HANDLER(I32_SHL_ADD, GET_OPERAND(uint32, I32, 2) << (GET_OPERAND(uint32, I32, 0) % 32))

            HANDLE_OP(PW_OP_BR_IF_I32_ADD)
            {
                uint32 sum = PW_SUM;
                SET_OPERAND(I32, 4, sum);
                PW_BRANCH_IF(sum, 6)
            }

#define PW_LOAD_HANDLER(name, bytes, load)                                                                                             \
    HANDLE_OP(PW_OP_##name)                                                                                                            \
    {                                                                                                                                  \
        uint32 addr = PW_SUM, offset;                                                                                                  \
        SET_OPERAND(I32, 4, addr);                                                                                                     \
        frame_ip += 6;                                                                                                                 \
        offset = read_uint32(frame_ip);                                                                                                \
        addr_ret = GET_OFFSET();                                                                                                       \
        CHECK_MEMORY_OVERFLOW(bytes);                                                                                                  \
        frame_lp[addr_ret] = (uint32)(load);                                                                                           \
        HANDLE_OP_END();                                                                                                               \
    }
            PW_LOAD_HANDLER(I32_ADD_LOAD, 4, LOAD_I32(maddr))
            PW_LOAD_HANDLER(I32_ADD_LOAD8_U, 1, *(uint8 *)maddr)
            PW_LOAD_HANDLER(I32_ADD_LOAD16_U, 2, LOAD_U16(maddr))
