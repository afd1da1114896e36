/* Part of WAMR's aot_llvm_extra.cpp, behind its passes (native/cmake/wamr_source.cmake, wamr_extend_early): where addresses are extended.
 *
 * A WebAssembly address is a number of 32 bits, which is extended by zeros where it is used. On x86-64 what computes 32 bits extends them for nothing,
 * but LLVM's code generator sees that within a block only: elsewhere it copies the number into another register, and keeps both. So each extension
 * goes to where its number is made, and a number that comes from several blocks has 64 bits in all of them. Nothing else is changed, and no pass
 * that would undo it comes behind. */
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/Instructions.h>

namespace pw {

class EarlyExtensions {
    static const unsigned most = 64; /* numbers that go into each other */
    llvm::Function &function;
    llvm::Type *wide;
    std::map<llvm::Value *, llvm::Value *> known; /* numbers, and what they are in 64 bits */
    std::vector<std::pair<llvm::PHINode *, llvm::PHINode *>> joined; /* those of them that come from several blocks, in the order made */

  public:
    EarlyExtensions(llvm::Function &function)
        : function(function)
        , wide(llvm::Type::getInt64Ty(function.getContext()))
    {
    }

    void
    make()
    {
        std::vector<llvm::ZExtInst *> extensions;
        for (llvm::Instruction &each : llvm::instructions(function)) {
            auto *extension = llvm::dyn_cast<llvm::ZExtInst>(&each);
            if (extension && extension->getType() == wide && extension->getSrcTy()->isIntegerTy(32))
                extensions.push_back(extension);
        }
        for (llvm::ZExtInst *extension : extensions) {
            llvm::Value *number = extension->getOperand(0);
            if (!known.count(number) && !is_better(*number, *extension->getParent()))
                continue;
            extension->replaceAllUsesWith(extend(number));
            extension->eraseFromParent();
        }
        narrow();
    }

  private:
    /* Whether the processor leaves zeros in the upper half of its result. */
    static bool
    is_free(const llvm::Value &number)
    {
        return llvm::isa<llvm::BinaryOperator>(number) || llvm::isa<llvm::LoadInst>(number) || llvm::isa<llvm::SelectInst>(number);
    }

    bool
    is_better(const llvm::Value &number, const llvm::BasicBlock &used)
    {
        if (auto *phi = llvm::dyn_cast<llvm::PHINode>(&number))
            return is_mostly_free(*phi);
        return is_free(number) && llvm::cast<llvm::Instruction>(number).getParent() != &used;
    }

    /* Of a number that comes from several blocks, and of those that go into it. */
    bool
    is_mostly_free(const llvm::PHINode &phi)
    {
        std::set<const llvm::PHINode *> seen = { &phi };
        std::vector<const llvm::PHINode *> left = { &phi };
        unsigned free = 0, others = 0;
        while (!left.empty()) {
            const llvm::PHINode *each = left.back();
            left.pop_back();
            for (llvm::Value *value : each->incoming_values()) {
                auto *another = llvm::dyn_cast<llvm::PHINode>(value);
                if (another && seen.insert(another).second)
                    left.push_back(another);
                else if (!another && (llvm::isa<llvm::Constant>(value) || is_free(*value)))
                    free++;
                else if (!another && !known.count(value))
                    others++;
            }
            if (seen.size() > most)
                return false;
        }
        return free > others;
    }

    llvm::Value *
    extend(llvm::Value *number)
    {
        auto found = known.find(number);
        if (found != known.end())
            return found->second;
        if (auto *constant = llvm::dyn_cast<llvm::ConstantInt>(number))
            return llvm::ConstantInt::get(wide, constant->getZExtValue());
        if (llvm::isa<llvm::UndefValue>(number))
            return llvm::ConstantInt::get(wide, 0);
        if (auto *phi = llvm::dyn_cast<llvm::PHINode>(number)) {
            auto *made = llvm::PHINode::Create(wide, phi->getNumIncomingValues(), "wide", phi);
            known[number] = made;
            joined.emplace_back(phi, made);
            for (unsigned i = 0; i < phi->getNumIncomingValues(); i++)
                made->addIncoming(extend(phi->getIncomingValue(i)), phi->getIncomingBlock(i));
            return made;
        }
        auto *instruction = llvm::dyn_cast<llvm::Instruction>(number);
        llvm::Instruction *behind = instruction ? instruction->getNextNode() : &*function.getEntryBlock().getFirstInsertionPt();
        return known[number] = new llvm::ZExtInst(number, wide, "extended", behind);
    }

    /* What came from several blocks in 32 bits is the lower half of what does now. */
    void
    narrow()
    {
        for (auto &[phi, made] : joined)
            phi->replaceAllUsesWith(new llvm::TruncInst(made, phi->getType(), "lower", &*phi->getParent()->getFirstInsertionPt()));
        for (auto &[phi, made] : joined)
            phi->eraseFromParent();
    }
};

static void
extend_early(llvm::Module &module)
{
    if (module.getTargetTriple().rfind("x86_64", 0) == 0)
        for (llvm::Function &function : module)
            EarlyExtensions(function).make();
}

} // namespace pw
