"""Small language models of every mixer, trained on the same tokens in the same order and measured on the same documents.

python run_eval.py train lm-proxies --workers 4
"""
