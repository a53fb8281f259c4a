"""Questions evaluated on the columns of the map: masks for conditions, gathers for the rest, partitions for the best.

Paper II-A. `answering.answer_question` is the entry; `explaining.explain` says why something is or is not in an answer;
`saved.SavedQuestions` tells when an answer changes. The form of questions is `descriptors.questions`.
"""
