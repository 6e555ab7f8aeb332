"""People's answers about pictures: which are drawn, the pages, the files of answers, and what follows from them.

pairs of near-duplicates   pairs ─▶ server, page/index.html ─▶ answers ─▶ precision
pictures of a task         tasks ─▶ drawing (near_draws, random_draws, scores) ─▶ drawn_file
                           ─▶ picture_server (sessions, pictures, illegal), page/pictures.html
                           ─▶ labels ─▶ results (agreement, prevalence)
"""
