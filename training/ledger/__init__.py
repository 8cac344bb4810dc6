"""A budget of joules kept on disk: reserve, commit, release; spent + reserved + remaining is the budget."""
